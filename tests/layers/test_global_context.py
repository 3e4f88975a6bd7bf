# SPDX-License-Identifier: Apache-2.0
"""ParseNet's module: lengths, the mean, and what is concatenated."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from denseg.errors import ShapeError
from denseg.layers import GlobalContext


def features(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_equals_the_sentence_that_defines_it() -> None:
    layer, x = GlobalContext(4, scale=10).double(), features(2, 4, 5, 6)
    torch.nn.init.uniform_(layer.local_norm.scale, 5, 15)
    out = layer(x)
    for b in range(2):
        mean = x[b].mean(dim=(1, 2))
        for i in range(5):
            for j in range(6):
                local = layer.local_norm.scale * x[b, :, i, j] / x[b, :, i, j].norm()
                torch.testing.assert_close(out[b, :, i, j], torch.cat([local, 10 * mean / mean.norm()]))


def test_starts_with_length_ten_and_does_not_see_the_input_length() -> None:
    layer, x = GlobalContext(4).double(), features(1, 4, 5, 6)
    ten = torch.full((1, 5, 6), 10.0, dtype=torch.float64)
    for half in layer(x).chunk(2, dim=1):
        torch.testing.assert_close(half.norm(dim=1), ten)
    torch.testing.assert_close(layer(100 * x), layer(x))
    assert bool((layer(torch.zeros_like(x)) == 0).all())


def test_shuffled_in_shuffled_out() -> None:
    layer, x = GlobalContext(4).double(), features(1, 4, 5, 6)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    shuffled = layer(x.flatten(2)[..., order].view_as(x))
    torch.testing.assert_close(shuffled, layer(x).flatten(2)[..., order].view_as(shuffled))


def test_gradients() -> None:
    assert torch.autograd.gradcheck(GlobalContext(3).double(), (features(1, 3, 2, 3).requires_grad_(),))


def test_messages() -> None:
    expected = "GlobalContext takes features of shape (B, 4, h, w), got (1, 3, 5, 5)"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        GlobalContext(4)(torch.zeros(1, 3, 5, 5))
