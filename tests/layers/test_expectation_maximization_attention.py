# SPDX-License-Identifier: Apache-2.0
"""EM attention against its equations written out, and how its bases move."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from denseg.errors import ShapeError, UsageError
from denseg.layers import ExpectationMaximizationAttention


def features(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_equals_the_equations() -> None:
    layer = ExpectationMaximizationAttention(6, bases=3, iterations=2).double().eval()
    x = features(2, 6, 4, 5)
    expected = []
    for image in x:
        rows = F.conv2d(image[None], layer.input.weight, layer.input.bias)[0].flatten(1).T  # (N, C)
        bases = layer.bases.T  # (K, C)
        for _ in range(2):
            z = torch.stack([torch.stack([row @ basis for basis in bases]).softmax(0) for row in rows])  # (N, K)
            bases = torch.stack([(z[:, k, None] * rows).sum(0) / (z[:, k].sum() + 1e-6) for k in range(3)])
            bases = torch.stack([basis / basis.norm() for basis in bases])
        expected.append((z @ bases).T.reshape(6, 4, 5))
    rebuilt = F.relu(torch.stack(expected))
    torch.testing.assert_close(layer(x), F.relu(x + layer.norm(layer.output(rebuilt))))


def test_bases_move_in_training_only() -> None:
    layer = ExpectationMaximizationAttention(6, bases=3, momentum=0.9).double()
    x, start = features(2, 6, 4, 5), layer.bases.clone()
    layer.eval()(x)
    assert torch.equal(layer.bases, start)
    found, _ = layer.iterate(layer.input(x).flatten(2))
    layer.train()(x)
    torch.testing.assert_close(layer.bases, 0.9 * start + 0.1 * found.mean(dim=0))


def test_the_first_convolution_is_frozen_and_the_rest_learns() -> None:
    layer = ExpectationMaximizationAttention(6, bases=3).double()
    x = features(2, 6, 4, 5).requires_grad_()
    layer(x).cos().sum().backward()
    learns = {name for name, parameter in layer.named_parameters() if parameter.grad is not None}
    assert learns == {"output.weight", "norm.weight", "norm.bias"}
    assert x.grad is not None


def test_shuffled_in_shuffled_out() -> None:
    layer, x = ExpectationMaximizationAttention(6, bases=3).double().eval(), features(2, 6, 4, 5)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = layer(x.flatten(2)[..., order].view_as(x))
    torch.testing.assert_close(shuffled, layer(x).flatten(2)[..., order].view_as(x))


def test_parameters_at_512_channels() -> None:
    assert sum(p.numel() for p in ExpectationMaximizationAttention(512).parameters()) == 525_824


def test_messages() -> None:
    expected = "bases and iterations must be at least 1 and momentum in 0..1, got 0, 3 and 0.9"
    with pytest.raises(UsageError, match=f"^{re.escape(expected)}$"):
        ExpectationMaximizationAttention(6, bases=0)
    expected = "ExpectationMaximizationAttention takes features of shape (B, C, h, w), got (6, 2, 2)"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        ExpectationMaximizationAttention(6)(torch.zeros(6, 2, 2))
