# SPDX-License-Identifier: Apache-2.0
"""Spatial pyramid pooling: a fixed length from any size, bin by bin."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from denseg.errors import ShapeError, UsageError
from denseg.layers import SpatialPyramidPooling


def features(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(13, 13), (10, 7), (1, 1), (40, 3)])
def test_the_vector_has_one_length_at_any_size(size: tuple[int, int]) -> None:
    layer = SpatialPyramidPooling(5)
    assert layer.bins == 50
    assert layer.vector(features(2, 5, *size)).shape == (2, 5 * 50)


def test_the_vector_bin_by_bin() -> None:
    layer, x = SpatialPyramidPooling(2, levels=(2, 1)), features(1, 2, 4, 6)
    expected = []
    for level in (2, 1):
        for channel in range(2):
            for i in range(level):
                for j in range(level):
                    rows = slice(i * 4 // level, (i + 1) * 4 // level)
                    columns = slice(j * 6 // level, (j + 1) * 6 // level)
                    expected.append(x[0, channel, rows, columns].max())
    assert torch.equal(layer.vector(x)[0], torch.stack(expected))


def test_the_dense_form_lays_bins_back() -> None:
    layer, x = SpatialPyramidPooling(2, levels=(2, 1)), features(1, 2, 4, 6)
    out = layer(x)
    assert out.shape == (1, 6, 4, 6)
    assert torch.equal(out[:, :2], x)
    for i in range(4):
        for j in range(6):
            rows, columns = slice(i // 2 * 2, i // 2 * 2 + 2), slice(j // 3 * 3, j // 3 * 3 + 3)
            assert torch.equal(out[0, 2:4, i, j], x[0, :, rows, columns].amax(dim=(1, 2)))
    assert torch.equal(out[:, 4:], x.amax(dim=(2, 3), keepdim=True).expand(1, 2, 4, 6))


def test_mirrored_in_mirrored_out() -> None:
    layer, x = SpatialPyramidPooling(2, levels=(2, 1)), features(1, 2, 4, 6)
    assert torch.equal(layer(x.flip(3)), layer(x).flip(3))


def test_gradients() -> None:
    for pool in ("max", "avg"):
        layer = SpatialPyramidPooling(2, pool=pool)
        assert torch.autograd.gradcheck(layer, (features(1, 2, 4, 5).requires_grad_(),))


def test_messages() -> None:
    expected = "spatial pyramid pooling needs levels of at least 1, got []"
    with pytest.raises(UsageError, match=f"^{re.escape(expected)}$"):
        SpatialPyramidPooling(4, levels=())
    with pytest.raises(UsageError, match=r"^pool is 'avg' or 'max', got 'sum'$"):
        SpatialPyramidPooling(4, pool="sum")
    expected = "SpatialPyramidPooling takes features of shape (B, 4, h, w), got (1, 3, 5, 5)"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        SpatialPyramidPooling(4)(torch.zeros(1, 3, 5, 5))
