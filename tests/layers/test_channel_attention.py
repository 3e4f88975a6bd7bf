# SPDX-License-Identifier: Apache-2.0
"""Channel attention against its sums written out."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from denseg.errors import ShapeError
from denseg.layers import ChannelAttention


def features(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def opened(channels: int) -> ChannelAttention:
    layer = ChannelAttention(channels).double()
    torch.nn.init.constant_(layer.gamma, 0.7)
    return layer


def test_starts_as_the_identity() -> None:
    x = features(2, 6, 4, 5)
    assert torch.equal(ChannelAttention(6).double()(x), x)


def test_equals_the_sums_written_out() -> None:
    x = features(2, 6, 4, 5)
    expected = x.clone()
    for b in range(2):
        for i in range(6):
            likeness = torch.stack([(x[b, i] * x[b, j]).sum() for j in range(6)])
            weights = (-likeness).softmax(0)  # what is added to all scores cancels
            expected[b, i] += 0.7 * sum(weights[j] * x[b, j] for j in range(6))
    torch.testing.assert_close(opened(6)(x), expected)


def test_shuffled_positions_and_shuffled_channels() -> None:
    layer, x = opened(6), features(2, 6, 4, 5)
    positions = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    channels = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    moved = layer(x.flatten(2)[..., positions].view_as(x))
    torch.testing.assert_close(moved, layer(x).flatten(2)[..., positions].view_as(x))
    torch.testing.assert_close(layer(x[:, channels]), layer(x)[:, channels])


def test_gradients() -> None:
    assert torch.autograd.gradcheck(opened(3), (features(1, 3, 2, 3).requires_grad_(),))


def test_messages() -> None:
    expected = "ChannelAttention takes features of shape (B, 6, h, w), got (1, 5, 4, 4)"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        ChannelAttention(6)(torch.zeros(1, 5, 4, 4))
