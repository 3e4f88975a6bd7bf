# SPDX-License-Identifier: Apache-2.0
"""Location-aware attention: parameters, the sentence that defines it, what it is and is not equivariant to."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from denseg.errors import UsageError
from denseg.layers import LocationAwareAttention

WINDOWS = (3, 5, 7, 9, 11, 15, 19)


def features(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_parameters_at_512_channels() -> None:
    # theta 512 * 128 + 128, phi 512 * 512 + 512, interaction 14 * 9 + 1, batch norm 2
    assert sum(p.numel() for p in LocationAwareAttention(512).parameters()) == 65_664 + 262_656 + 127 + 2 == 328_449


def test_equals_the_sentence_that_defines_it() -> None:
    layer = LocationAwareAttention(16).double().eval()
    layer.norm.running_mean.fill_(0.1)
    x = features(2, 16, 10, 12)
    theta = F.conv2d(x, layer.theta.weight, layer.theta.bias)
    pooled = [F.avg_pool2d(theta, k, 1, k // 2) for k in WINDOWS] + [F.max_pool2d(theta, k, 1, k // 2) for k in WINDOWS]
    relations = torch.stack([F.cosine_similarity(context, theta, dim=1) for context in pooled], dim=1)
    u = F.relu(layer.norm(F.conv2d(relations, layer.interaction.weight, layer.interaction.bias, padding=1)))
    torch.testing.assert_close(layer(x), x + F.conv2d(u * x, layer.phi.weight, layer.phi.bias))
    torch.testing.assert_close(layer.attention(x), u)


def test_position_counts_unlike_in_dense_attention() -> None:
    layer = LocationAwareAttention(16).double().eval()
    x = features(1, 16, 8, 8)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    shuffled = layer(x.flatten(2)[..., order].view_as(x))
    assert not torch.allclose(shuffled, layer(x).flatten(2)[..., order].view_as(x))


def test_moves_with_the_map_inside() -> None:
    layer = LocationAwareAttention(8, reduction=2, windows=(3, 5)).double().eval()
    x = features(1, 8, 20, 20)
    moved = layer(x.roll(4, dims=3))
    torch.testing.assert_close(moved[..., 8:16], layer(x)[..., 4:12])  # reach 2 + 1, far from the seam


def test_gates() -> None:
    x = features(1, 8, 6, 6)
    relu, sigmoid = (LocationAwareAttention(8, gate=gate).double().eval() for gate in ("relu", "sigmoid"))
    sigmoid.load_state_dict(relu.state_dict())
    scores = torch.special.logit(sigmoid.attention(x))
    torch.testing.assert_close(relu.attention(x), scores.clamp(min=0))


def test_gradients() -> None:
    layer = LocationAwareAttention(4, reduction=2, windows=(3, 7)).double()
    assert torch.autograd.gradcheck(layer, (features(1, 4, 4, 4).requires_grad_(),))


def test_messages() -> None:
    with pytest.raises(UsageError, match=re.escape("in_channels must be at least reduction (4), got 3") + "$"):
        LocationAwareAttention(3)
    with pytest.raises(UsageError, match=r"^gate is 'relu' or 'sigmoid', got 'tanh'$"):
        LocationAwareAttention(8, gate="tanh")  # type: ignore[arg-type]
