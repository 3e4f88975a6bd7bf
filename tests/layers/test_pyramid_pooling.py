# SPDX-License-Identifier: Apache-2.0
"""Pyramid pooling region by region."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from denseg.errors import ShapeError, UsageError
from denseg.layers import PyramidPooling


def features(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("align_corners", [False, True])
def test_equals_the_sentence_that_defines_it(align_corners: bool) -> None:
    layer = PyramidPooling(8, align_corners=align_corners).double().eval()
    x = features(2, 8, 12, 18)
    expected = [x]
    for count, branch in zip((1, 2, 3, 6), layer.branches, strict=True):
        means = x.unfold(2, 12 // count, 12 // count).unfold(3, 18 // count, 18 // count).mean(dim=(4, 5))
        means = F.relu(F.conv2d(means, branch.conv.weight) / (1 + 1e-5) ** 0.5)
        expected.append(F.interpolate(means, size=(12, 18), mode="bilinear", align_corners=align_corners))
    torch.testing.assert_close(layer(x), torch.cat(expected, dim=1))


def test_a_constant_map_stays_constant() -> None:
    layer = PyramidPooling(4).double().eval()
    x = features(1, 4, 1, 1).expand(1, 4, 9, 11)
    torch.testing.assert_close(layer(x), layer(x)[:, :, :1, :1].expand(1, 8, 9, 11))


def test_mirrored_in_mirrored_out() -> None:
    layer, x = PyramidPooling(4).double().eval(), features(1, 4, 13, 11)
    torch.testing.assert_close(layer(x.flip(3)), layer(x).flip(3))
    torch.testing.assert_close(layer(x.transpose(2, 3)), layer(x).transpose(2, 3))


def test_parameters_at_2048_channels() -> None:
    layer = PyramidPooling(2048)
    assert sum(p.numel() for p in layer.parameters()) == 4 * (2048 * 512 + 2 * 512)


def test_gradients() -> None:
    layer = PyramidPooling(2, bins=(1, 3), out_channels=1).double().eval()
    assert torch.autograd.gradcheck(layer, (features(1, 2, 4, 5).requires_grad_(),))


def test_messages() -> None:
    with pytest.raises(UsageError, match=re.escape("pyramid pooling needs bins of at least 1, got [0]") + "$"):
        PyramidPooling(4, bins=(0,))
    expected = "PyramidPooling takes features of shape (B, C, h, w), got (4, 5, 5)"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        PyramidPooling(4)(torch.zeros(4, 5, 5))
