# SPDX-License-Identifier: Apache-2.0
"""Criss-cross attention against dense attention under a mask, and its reach."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from denseg.errors import ShapeError, UsageError
from denseg.layers import CrissCrossAttention
from denseg.layers.criss_cross_attention import criss_cross_attention


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def opened(channels: int = 8, **options: int) -> CrissCrossAttention:
    layer = CrissCrossAttention(channels, **options).double()
    torch.nn.init.constant_(layer.gamma, 0.7)
    return layer


@pytest.mark.parametrize("size", [(5, 7), (1, 6), (6, 1), (1, 1)])
def test_equals_dense_attention_under_a_mask(size: tuple[int, int]) -> None:
    query, key, value = (features(2, channels, *size, seed=seed) for seed, channels in enumerate((4, 4, 6)))
    place = torch.arange(size[0] * size[1])
    row, column = place // size[1], place % size[1]
    cross = (row[:, None] == row) | (column[:, None] == column)
    scores = (query.flatten(2).transpose(1, 2) @ key.flatten(2)).masked_fill(~cross, -torch.inf)
    expected = (scores.softmax(-1) @ value.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(value.shape)
    torch.testing.assert_close(criss_cross_attention(query, key, value), expected)


def test_large_scores_do_not_overflow() -> None:
    query, key, value = (100 * features(1, 4, 3, 5, seed=seed).float() for seed in range(3))
    assert bool(torch.isfinite(criss_cross_attention(query, key, value)).all())


def test_starts_as_the_identity() -> None:
    x = features(1, 8, 4, 5)
    assert torch.equal(CrissCrossAttention(8).double()(x), x)


def test_one_turn_reaches_the_cross_and_two_reach_all() -> None:
    for recurrence, reached in ((1, 4 + 6 - 1), (2, 24)):
        x = features(1, 8, 4, 6).requires_grad_()
        (gradient,) = torch.autograd.grad(opened(recurrence=recurrence)(x)[0, :, 1, 2].sum(), x)
        assert int((gradient.abs().sum(dim=1) > 0).sum()) == reached


def test_shuffled_rows_and_columns() -> None:
    layer, x = opened(), features(1, 8, 4, 6)
    rows, columns = torch.tensor([2, 0, 3, 1]), torch.tensor([5, 1, 0, 4, 2, 3])
    torch.testing.assert_close(layer(x[:, :, rows][..., columns]), layer(x)[:, :, rows][..., columns])
    torch.testing.assert_close(layer(x.transpose(2, 3)), layer(x).transpose(2, 3))


def test_gradients() -> None:
    assert torch.autograd.gradcheck(opened(), (features(1, 8, 2, 3).requires_grad_(),))


def test_messages() -> None:
    with pytest.raises(UsageError, match=re.escape("in_channels must be at least reduction (8), got 4") + "$"):
        CrissCrossAttention(4)
    with pytest.raises(UsageError, match=r"^recurrence must be at least 1, got 0$"):
        CrissCrossAttention(8, recurrence=0)
    expected = "CrissCrossAttention takes features of shape (B, C, h, w), got (8, 4, 4)"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        CrissCrossAttention(8)(torch.zeros(8, 4, 4))
