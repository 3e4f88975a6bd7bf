# SPDX-License-Identifier: Apache-2.0
"""Shift-and-stitch equals à trous (J. Long et al. 2015, Section 3.2); see ``docs/shift_and_stitch.md``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

GENERATOR = torch.Generator().manual_seed(0)
FIRST = torch.randn(6, 3, 3, 3, generator=GENERATOR)
SECOND = torch.randn(5, 6, 3, 3, generator=GENERATOR)
THIRD = torch.randn(4, 5, 3, 3, generator=GENERATOR)


def strided(x: Tensor) -> Tensor:
    """Two pools: one output per 4 pixels."""
    x = F.max_pool2d(F.relu(F.conv2d(x, FIRST)), 2)
    x = F.max_pool2d(F.relu(F.conv2d(x, SECOND)), 2)
    return F.conv2d(x, THIRD)


def with_holes(x: Tensor) -> Tensor:
    """The same weights; pools keep their windows and step by 1, what follows a pool is dilated twice as much."""
    x = F.max_pool2d(F.relu(F.conv2d(x, FIRST)), 2, stride=1)
    x = F.relu(F.conv2d(x, SECOND, dilation=2))
    x = x_pool(x, dilation=2)
    return F.conv2d(x, THIRD, dilation=4)


def x_pool(x: Tensor, *, dilation: int) -> Tensor:
    return F.max_pool2d(x, 2, stride=1, dilation=dilation)


def shift_and_stitch(net: Callable[[Tensor], Tensor], x: Tensor, factor: int) -> Tensor:
    """Run the net on every shift of the image and interlace what comes out."""
    height, width = (side - factor + 1 for side in x.shape[2:])
    outputs = [
        [net(x[..., row : row + height, column : column + width]) for column in range(factor)] for row in range(factor)
    ]
    batch, channels, rows, columns = outputs[0][0].shape
    stitched = x.new_empty(batch, channels, rows * factor, columns * factor)
    for row in range(factor):
        for column in range(factor):
            stitched[..., row::factor, column::factor] = outputs[row][column]
    return stitched


@pytest.mark.parametrize("size", [(35, 35), (43, 39)])
def test_shift_and_stitch_equals_a_trous(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    stitched, dense = shift_and_stitch(strided, x, 4), with_holes(x)
    rows, columns = (min(a, b) for a, b in zip(stitched.shape[2:], dense.shape[2:], strict=True))
    assert rows >= size[0] - 28
    stitched, dense = stitched[..., :rows, :columns], dense[..., :rows, :columns]
    torch.testing.assert_close(stitched, dense, rtol=1e-6, atol=1e-6 * dense.abs().max().item())


def test_without_shifting_the_net_gives_every_fourth_of_it() -> None:
    x = torch.randn(1, 3, 35, 35, generator=torch.Generator().manual_seed(1))
    coarse = strided(x)
    torch.testing.assert_close(
        with_holes(x)[..., ::4, ::4][..., : coarse.shape[2], : coarse.shape[3]], coarse, rtol=1e-5, atol=1e-4
    )


def test_dilating_too_little_is_another_net() -> None:
    x = torch.randn(1, 3, 35, 35, generator=torch.Generator().manual_seed(1))
    plain = F.max_pool2d(F.relu(F.conv2d(x, FIRST)), 2, stride=1)
    wrong = F.conv2d(x_pool(F.relu(F.conv2d(plain, SECOND)), dilation=1), THIRD)
    stitched = shift_and_stitch(strided, x, 4)
    assert (wrong[..., :8, :8] - stitched[..., :8, :8]).abs().max() > 1
