# SPDX-License-Identifier: Apache-2.0
"""Asymmetric convolution: three branches in training, one convolution after, the same numbers."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F

from denseg.errors import UsageError
from denseg.layers import AsymmetricConv


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2},
        {"dilation": 3},
        {"groups": 4, "kernel_size": 5},
        {"out_channels": 6, "kernel_size": 7},
        {"padding": 0},
        {"padding": 1, "kernel_size": 5, "stride": 2, "dilation": 2},
        {"padding": 3},
    ],
)
def test_fused_it_gives_the_same(options: dict[str, int]) -> None:
    layer = AsymmetricConv(8, **options)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):  # running statistics that are not 0 and 1
        layer(3 * torch.randn(2, 8, 13, 17, generator=generator) + 1)
    for branch in (layer.square, layer.row, layer.column):
        torch.nn.init.normal_(branch.norm.weight, mean=1, std=0.3, generator=generator)
        torch.nn.init.normal_(branch.norm.bias, std=0.3, generator=generator)
    layer.eval()
    x = torch.randn(2, 8, 13, 17, generator=generator)
    fused = layer.fuse()
    torch.testing.assert_close(fused(x), layer(x), rtol=1e-5, atol=1e-5)
    assert fused.weight.shape == layer.square.conv.weight.shape


def test_rows_and_columns_fall_on_the_middle() -> None:
    layer = AsymmetricConv(1).double().eval()
    x = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    x[0, 0, 2, 2] = 1
    with torch.no_grad():
        layer.square.conv.weight.zero_()
        layer.column.conv.weight.zero_()
    response = layer(x)[0, 0]
    assert set(map(tuple, response.nonzero().tolist())) == {(2, 1), (2, 2), (2, 3)}


def test_an_axis_swap_swaps_row_and_column() -> None:
    layer, swapped = AsymmetricConv(4).double().eval(), AsymmetricConv(4).double().eval()
    with torch.no_grad():
        swapped.square.conv.weight.copy_(layer.square.conv.weight.transpose(2, 3))
        swapped.row.conv.weight.copy_(layer.column.conv.weight.transpose(2, 3))
        swapped.column.conv.weight.copy_(layer.row.conv.weight.transpose(2, 3))
    x = torch.randn(1, 4, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(swapped(x.transpose(2, 3)), layer(x).transpose(2, 3))


def test_equals_three_convolutions() -> None:
    layer, x = AsymmetricConv(4).double().eval(), torch.randn(1, 4, 6, 7, dtype=torch.float64)
    expected = (
        F.conv2d(x, layer.square.conv.weight, padding=1)
        + F.conv2d(x, layer.row.conv.weight, padding=(0, 1))
        + F.conv2d(x, layer.column.conv.weight, padding=(1, 0))
    ) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(layer(x), expected)


def test_gradients() -> None:
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(AsymmetricConv(2).double(), (x,))


@pytest.mark.parametrize("kernel_size", [1, 4])
def test_messages(kernel_size: int) -> None:
    expected = f"an asymmetric convolution needs an odd kernel_size of at least 3, got {kernel_size}"
    with pytest.raises(UsageError, match=f"^{re.escape(expected)}$"):
        AsymmetricConv(4, kernel_size=kernel_size)
    layer = AsymmetricConv(4)
    layer.row.norm.running_mean = None
    expected = "a batch norm without running statistics cannot be fused; keep track_running_stats on"
    with pytest.raises(UsageError, match=f"^{re.escape(expected)}$"):
        layer.fuse()
