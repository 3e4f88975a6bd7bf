# SPDX-License-Identifier: Apache-2.0
"""Position attention: a transposition where a reshape would pass every shape test is caught here."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from denseg.errors import ShapeError, UsageError
from denseg.layers import PositionAttention


def features(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def opened(channels: int = 16) -> PositionAttention:
    layer = PositionAttention(channels).double()
    torch.nn.init.constant_(layer.gamma, 0.7)
    return layer


def test_starts_as_the_identity() -> None:
    x = features(2, 16, 5, 7)
    assert torch.equal(PositionAttention(16).double()(x), x)


def test_equals_attention_position_by_position() -> None:
    layer, x = opened(), features(2, 16, 5, 7)
    query, key, value = layer.query(x), layer.key(x), layer.value(x)
    expected = x.clone()
    for b in range(2):
        for i in range(5):
            for j in range(7):
                scores = torch.einsum("c,chw->hw", query[b, :, i, j], key[b])
                weights = scores.flatten().softmax(0).view(5, 7)
                expected[b, :, i, j] += 0.7 * torch.einsum("hw,chw->c", weights, value[b])
    torch.testing.assert_close(layer(x), expected)


def test_equals_torchs_attention() -> None:
    layer, x = opened(), features(2, 16, 4, 6)
    query, key, value = (conv(x).flatten(2).transpose(1, 2) for conv in (layer.query, layer.key, layer.value))
    context = F.scaled_dot_product_attention(query, key, value, scale=1.0).transpose(1, 2).view_as(x)
    torch.testing.assert_close(layer(x), x + 0.7 * context)


def test_shuffled_in_shuffled_out() -> None:
    layer, x = opened(), features(2, 16, 4, 6)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    shuffled = layer(x.flatten(2)[..., order].view_as(x))
    torch.testing.assert_close(shuffled, layer(x).flatten(2)[..., order].view_as(x))


def test_gradients() -> None:
    assert torch.autograd.gradcheck(opened(8), (features(1, 8, 2, 3).requires_grad_(),))


def test_parameters_at_512_channels() -> None:
    assert sum(p.numel() for p in PositionAttention(512).parameters()) == 328_321


def test_messages() -> None:
    with pytest.raises(UsageError, match=re.escape("in_channels must be at least reduction (8), got 4") + "$"):
        PositionAttention(4)
    expected = "PositionAttention takes features of shape (B, C, h, w), got (16, 4, 4)"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        PositionAttention(16)(torch.zeros(16, 4, 4))
