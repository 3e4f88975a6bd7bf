# SPDX-License-Identifier: Apache-2.0
"""The non-local block against the N x N matrix that it never builds."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from denseg.errors import ShapeError, UsageError
from denseg.layers import NonLocal
from denseg.layers.non_local import concatenation_sum

PAIRWISE = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def opened(pairwise: str, **options: bool) -> NonLocal:
    layer = NonLocal(6, pairwise=pairwise, **options).double().eval()  # type: ignore[arg-type]
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(parameter.numel()))
    return layer


def by_definition(layer: NonLocal, x: Tensor) -> Tensor:
    query = x if layer.theta is None else layer.theta(x)
    key = x if layer.phi is None else layer.phi(x)
    value = layer.g(x)
    if layer.subsample:
        key, value = F.max_pool2d(key, 2, ceil_mode=True), F.max_pool2d(value, 2, ceil_mode=True)
    query, key, value = query.flatten(2), key.flatten(2), value.flatten(2)
    count = key.shape[2]
    if layer.pairwise == "concatenation":
        pairs = torch.cat(
            [query.unsqueeze(3).expand(-1, -1, -1, count), key.unsqueeze(2).expand(-1, -1, query.shape[2], -1)], dim=1
        )
        weights = F.relu(torch.einsum("bcnm,c->bnm", pairs, layer.concatenate.weight[0])) / count
    else:
        weights = torch.einsum("bcn,bcm->bnm", query, key)
        if layer.pairwise == "dot_product":
            weights = weights / count
        else:
            weights = (weights * (query.shape[1] ** -0.5 if layer.scale else 1)).softmax(-1)
    context = torch.einsum("bnm,bcm->bcn", weights, value).reshape(x.shape[0], -1, *x.shape[2:])
    return x + layer.norm(layer.output(context))


@pytest.mark.parametrize("subsample", [False, True])
@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_equals_the_definition(pairwise: str, subsample: bool) -> None:
    layer = opened(pairwise, subsample=subsample)
    for size in ((5, 7), (4, 4), (1, 1)):
        x = features(2, 6, *size)
        torch.testing.assert_close(layer(x), by_definition(layer, x))


@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "gaussian"])
def test_unscaled(pairwise: str) -> None:
    layer, x = opened(pairwise, scale=False), features(1, 6, 3, 4)
    torch.testing.assert_close(layer(x), by_definition(layer, x))


def test_starts_as_the_identity() -> None:
    x = features(1, 6, 4, 5)
    for pairwise in PAIRWISE:
        assert torch.equal(NonLocal(6, pairwise=pairwise).double()(x), x)  # type: ignore[arg-type]


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_shuffled_in_shuffled_out(pairwise: str) -> None:
    layer, x = opened(pairwise), features(1, 6, 4, 5)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = layer(x.flatten(2)[..., order].view_as(x))
    torch.testing.assert_close(shuffled, layer(x).flatten(2)[..., order].view_as(x))


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_gradients(pairwise: str) -> None:
    assert torch.autograd.gradcheck(opened(pairwise), (features(1, 6, 2, 3).requires_grad_(),))


def test_sorting_gives_the_sum_over_all_pairs() -> None:
    query, key, value = features(2, 9), features(2, 11, seed=1), features(2, 11, 3, seed=2)
    expected = F.relu(query.unsqueeze(2) + key.unsqueeze(1)) @ value / 11
    torch.testing.assert_close(concatenation_sum(query, key, value), expected)


def test_parameters_at_512_channels() -> None:
    assert sum(p.numel() for p in NonLocal(512).parameters()) == 526_080


def test_messages() -> None:
    with pytest.raises(UsageError, match=re.escape("in_channels must be at least reduction (2), got 1") + "$"):
        NonLocal(1)
    expected = "pairwise is one of embedded_gaussian, gaussian, dot_product, concatenation; got 'cosine'"
    with pytest.raises(UsageError, match=f"^{re.escape(expected)}$"):
        NonLocal(6, pairwise="cosine")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=re.escape("NonLocal takes features of shape (B, C, h, w), got (6, 2, 2)")):
        NonLocal(6)(torch.zeros(6, 2, 2))
