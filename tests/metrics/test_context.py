# SPDX-License-Identifier: Apache-2.0
"""Jumps of a context: constants, ramps, grids, and the layers that the paper compares."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from denseg.errors import ShapeError, UsageError
from denseg.metrics import context_jump
from denseg.ops import average_pool_pyramid


def test_a_ramp_jumps_alike_everywhere() -> None:
    ramp = torch.arange(12.0).expand(1, 1, 12, 12)
    jump = context_jump(ramp, bins=3)
    step = 1 / ramp.std(correction=0).item()
    assert jump.inside == pytest.approx(step / 2)  # no jump from row to row
    assert jump.ratio == pytest.approx(1)
    np.testing.assert_allclose(jump.jumps[0, :, :-1], step, rtol=1e-6)


@pytest.mark.parametrize(("size", "bins"), [((12, 12), 3), ((13, 17), 6), ((7, 24), 4)])
def test_constant_regions_jump_at_their_borders_only(size: tuple[int, int], bins: int) -> None:
    rows, columns = (torch.arange(side) * bins // side for side in size)
    values = torch.randn(bins, bins, 3, generator=torch.Generator().manual_seed(0))
    jump = context_jump(values[rows][:, columns].permute(2, 0, 1)[None], bins=bins)
    assert jump.inside == 0
    assert jump.across > 0
    assert jump.ratio == math.inf
    last = np.append((rows[1:] != rows[:-1]).numpy(), False)
    right = np.append((columns[1:] != columns[:-1]).numpy(), False)
    np.testing.assert_array_equal(jump.jumps[0] > 0, last[:, None] | right)


def test_equals_a_loop() -> None:
    x = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    spread = math.sqrt(float(((x - x.mean(dim=(0, 2, 3), keepdim=True)) ** 2).sum()) / (2 * 5 * 6))
    inside, across = [], []
    for b, i, j in np.ndindex(2, 5, 6):
        for di, dj in ((1, 0), (0, 1)):
            if i + di < 5 and j + dj < 6:
                jump = float((x[b, :, i, j] - x[b, :, i + di, j + dj]).norm()) / spread
                same = (i * 2 // 5, j * 2 // 6) == ((i + di) * 2 // 5, (j + dj) * 2 // 6)
                (inside if same else across).append(jump)
    found = context_jump(x, bins=2)
    assert found.inside == pytest.approx(np.mean(inside))
    assert found.across == pytest.approx(np.mean(across))


def test_scale_and_offset_change_nothing() -> None:
    x = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert context_jump(5 * x - 3).ratio == pytest.approx(context_jump(x).ratio)


def test_pooled_regions_jump_at_their_borders_and_windows_do_not() -> None:
    """What the paper holds against pooling pyramids, on smooth noise."""
    noise = torch.randn(1, 16, 36, 36, generator=torch.Generator().manual_seed(3))
    x = average_pool_pyramid(noise, [5])[0]
    regions = F.interpolate(F.adaptive_avg_pool2d(x, 6), size=(36, 36), mode="nearest")
    windows = torch.cat(average_pool_pyramid(x, [3, 7, 11]), dim=1)
    assert context_jump(regions).ratio > 100
    assert context_jump(windows).ratio == pytest.approx(1, abs=0.15)


def test_limits() -> None:
    constant = context_jump(torch.ones(1, 2, 4, 4))
    assert math.isnan(constant.ratio)
    assert constant.jumps.max() == 0
    assert math.isnan(context_jump(torch.randn(1, 2, 4, 4), bins=1).across)
    assert math.isnan(context_jump(torch.randn(1, 2, 1, 1)).inside)


def test_messages() -> None:
    message = "context_jump takes a context (B, C, h, w), floating point, got torch.int64 (1, 4, 4)"
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        context_jump(torch.zeros(1, 4, 4, dtype=torch.int64))
    with pytest.raises(UsageError, match=r"^bins must be at least 1, got 0$"):
        context_jump(torch.zeros(1, 1, 4, 4), bins=0)
