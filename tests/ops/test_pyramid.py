# SPDX-License-Identifier: Apache-2.0
"""Pooling pyramids against torch's own pooling, and what clipped windows mean."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from denseg.errors import ShapeError, UsageError
from denseg.ops import average_pool_pyramid, box_sum_pyramid, max_pool_pyramid

WINDOWS = (3, 5, 7, 9, 11, 15, 19)


def average(x: Tensor, window: int) -> Tensor:
    return F.avg_pool2d(x, window, stride=1, padding=window // 2, count_include_pad=False)


def maximum(x: Tensor, window: int) -> Tensor:
    return F.max_pool2d(x, window, stride=1, padding=window // 2)


@pytest.mark.parametrize("shape", [(1, 16, 65, 65), (2, 3, 5, 40), (1, 2, 1, 1), (1, 4, 128, 128), (2, 1, 1, 7)])
def test_equal_to_torchs_pooling(shape: tuple[int, ...]) -> None:
    x = 2 * torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 3
    for ours, window in zip(average_pool_pyramid(x, WINDOWS), WINDOWS, strict=True):
        torch.testing.assert_close(ours, average(x, window), rtol=0, atol=1e-5)
    with torch.no_grad():
        for ours, window in zip(max_pool_pyramid(x, WINDOWS), WINDOWS, strict=True):
            assert torch.equal(ours, maximum(x, window))
    for ours, window in zip(max_pool_pyramid(x.clone().requires_grad_(), WINDOWS), WINDOWS, strict=True):
        assert torch.equal(ours, maximum(x, window))


@settings(max_examples=50, deadline=None)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    radii=st.lists(st.integers(0, 20), min_size=1, max_size=4),
)
def test_any_size_and_any_windows_in_any_order(size: tuple[int, int], radii: list[int]) -> None:
    windows = [2 * radius + 1 for radius in radii]
    x = torch.randn(1, 2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    averages, maxima = average_pool_pyramid(x, windows), max_pool_pyramid(x, windows)
    for index, radius in enumerate(radii):
        for i in range(size[0]):
            for j in range(size[1]):
                part = x[:, :, max(0, i - radius) : i + radius + 1, max(0, j - radius) : j + radius + 1].flatten(2)
                torch.testing.assert_close(averages[index][:, :, i, j], part.mean(dim=2))
                assert torch.equal(maxima[index][:, :, i, j], part.amax(dim=2))


def test_a_large_offset_does_not_blur_averages() -> None:
    x = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(2)) + 1000
    exact = average_pool_pyramid(x.double(), WINDOWS)
    for ours, expected in zip(average_pool_pyramid(x, WINDOWS), exact, strict=True):
        assert float((ours - expected).abs().max()) < 2e-4  # float32 holds 1000 to 6e-5


def test_box_sums_are_averages_times_counts() -> None:
    x = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    ones = torch.ones_like(x)
    for precise in (False, True):
        sums, counts = box_sum_pyramid(x, WINDOWS, precise=precise), box_sum_pyramid(ones, WINDOWS)
        for total, count, mean in zip(sums, counts, average_pool_pyramid(x, WINDOWS), strict=True):
            torch.testing.assert_close(total, count * mean)


def test_gradients() -> None:
    x = torch.randn(1, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    for pool in (average_pool_pyramid, max_pool_pyramid):
        assert torch.autograd.gradcheck(lambda y, pool=pool: pool(y, (9, 3, 31)), (x,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    x = torch.randn(1, 2, 33, 33).to(dtype)
    for ours, window in zip(average_pool_pyramid(x, WINDOWS), WINDOWS, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.float(), average(x.float(), window).to(dtype).float(), rtol=1e-2, atol=1e-3)
    assert all(map(torch.equal, max_pool_pyramid(x, (3, 5)), (maximum(x, 3), maximum(x, 5))))


def test_the_input_is_left_as_it_is() -> None:
    x = torch.randn(1, 2, 8, 8)
    before = x.clone()
    average_pool_pyramid(x, WINDOWS)
    max_pool_pyramid(x, WINDOWS)
    assert torch.equal(x, before)


@pytest.mark.parametrize("pool", [average_pool_pyramid, max_pool_pyramid, box_sum_pyramid])
def test_messages(pool) -> None:
    expected = "pooling takes floating-point maps (B, C, h, w), got torch.float32 of shape (2, 3, 4)"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        pool(torch.zeros(2, 3, 4), (3,))
    expected = "pooling takes floating-point maps (B, C, h, w), got torch.int64 of shape (1, 1, 2, 2)"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        pool(torch.zeros(1, 1, 2, 2, dtype=torch.int64), (3,))
    for windows in ([4], [3, 0], []):
        expected = f"windows must be odd and positive, so that they have a centre; got {windows}"
        with pytest.raises(UsageError, match=f"^{re.escape(expected)}$"):
            pool(torch.zeros(1, 1, 2, 2), windows)
