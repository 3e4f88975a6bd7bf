# SPDX-License-Identifier: Apache-2.0
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from denseg.layers import SeparableConv


def test_equals_one_full_convolution_where_nothing_is_cut_between():
    """With positive inputs and weights, and norms at their start, the ReLU between does nothing."""
    layer = SeparableConv(5, out_channels=7, dilation=2).double().eval()
    for parameter in (layer.depthwise.conv.weight, layer.pointwise.conv.weight):
        parameter.data.abs_()
    x = torch.rand(2, 5, 9, 8, dtype=torch.float64)
    kernel = layer.pointwise.conv.weight * layer.depthwise.conv.weight.transpose(0, 1)  # (7, 5, 3, 3)
    full = F.conv2d(x, kernel, padding=2, dilation=2) / (1 + 1e-5)  # two norms of variance 1
    torch.testing.assert_close(layer(x), full)


def test_cost_against_the_full_convolution():
    """1 / C_out + 1 / k^2 of the weights, and so of the multiply-adds."""
    layer = SeparableConv(24, out_channels=40, kernel_size=5)
    weights = layer.depthwise.conv.weight.numel() + layer.pointwise.conv.weight.numel()
    assert weights / (24 * 40 * 25) == 1 / 40 + 1 / 25


def test_channels_are_filtered_apart():
    layer = SeparableConv(4).eval()
    x = torch.randn(1, 4, 6, 6)
    moved = x.clone()
    moved[:, 2] += 1
    change = (layer.depthwise(moved) - layer.depthwise(x)).abs().amax(dim=(0, 2, 3))
    assert change[2] > 0
    assert change[[0, 1, 3]].max() == 0


def test_gradcheck():
    layer = SeparableConv(2, out_channels=3).double().eval()
    x = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(layer, (x,))


def test_without_a_norm_between_it_is_one_full_convolution_for_any_input():
    layer = SeparableConv(5, out_channels=7, dilation=2, norm_between=False).double().eval()
    x = torch.randn(2, 5, 9, 8, dtype=torch.float64)
    kernel = layer.pointwise.conv.weight * layer.depthwise.weight.transpose(0, 1)
    full = F.relu(F.conv2d(x, kernel, padding=2, dilation=2) / (1 + 1e-5) ** 0.5)
    torch.testing.assert_close(layer(x), full)
