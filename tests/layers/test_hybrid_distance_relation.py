# SPDX-License-Identifier: Apache-2.0
"""The relation against its definition, position by position, and the paper's claims about it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from denseg.errors import ShapeError, UsageError
from denseg.layers import HybridDistanceRelation

WINDOWS = (3, 5, 9, 15)


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def relate(context: Tensor, x: Tensor, distance: str) -> Tensor:
    if distance == "cosine":
        return F.cosine_similarity(context, x, dim=1)
    return (context * x).sum(dim=1) if distance == "dot" else -(context - x).norm(dim=1)


def by_definition(x: Tensor, *, pool: str, distance: str, aggregate: str = "pool", rings: bool = False) -> Tensor:
    height, width = x.shape[2:]
    maps, inner = [], 0
    for window in WINDOWS:
        radius = window // 2
        context = torch.zeros_like(x)
        for i in range(height):
            for j in range(width):
                taps = []
                for a in range(-radius, radius + 1):
                    for b in range(-radius, radius + 1):
                        inside = 0 <= i + a < height and 0 <= j + b < width
                        ring = not rings or max(abs(a), abs(b)) > inner
                        tap = aggregate == "pool" or (a % radius == 0 and b % radius == 0)
                        if inside and ring and tap:
                            taps.append(x[:, :, i + a, j + b])
                if taps:
                    stacked = torch.stack(taps)
                    context[:, :, i, j] = stacked.mean(dim=0) if pool == "avg" else stacked.amax(dim=0)
        maps.append(relate(context, x, distance))
        inner = radius
    return torch.stack(maps, dim=1)


@pytest.mark.parametrize("options", [{}, {"rings": True}, {"aggregate": "atrous"}])
@pytest.mark.parametrize("distance", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("pool", ["avg", "max"])
def test_equals_the_definition(pool: str, distance: str, options: dict[str, Any]) -> None:
    x = features(2, 3, 6, 9)
    ours = HybridDistanceRelation(windows=WINDOWS, pools=(pool,), distance=distance, **options)(x)
    torch.testing.assert_close(ours, by_definition(x, pool=pool, distance=distance, **options))


def test_averages_come_first_and_windows_keep_their_order() -> None:
    x = features(1, 3, 8, 8)
    both = HybridDistanceRelation(windows=(9, 3))(x)
    assert both.shape == (1, 4, 8, 8)
    parts = [HybridDistanceRelation(windows=(w,), pools=(p,))(x) for p in ("avg", "max") for w in (9, 3)]
    torch.testing.assert_close(both, torch.cat(parts, dim=1))


def test_one_inside_a_constant_region() -> None:
    x = torch.ones(1, 4, 24, 24, dtype=torch.float64) * features(4).view(1, 4, 1, 1)
    x[..., 12:] = features(4, seed=1).view(1, 4, 1, 1)
    relation = HybridDistanceRelation(windows=(3, 5, 7, 9))(x)
    torch.testing.assert_close(relation[..., :8], torch.ones_like(relation[..., :8]))  # 9 reaches 4 to the border
    assert bool((relation[..., 11] < 1 - 1e-6).all())


def test_cosine_does_not_see_the_length() -> None:
    x = features(1, 3, 7, 7)
    relation = HybridDistanceRelation(windows=WINDOWS)
    torch.testing.assert_close(relation(100 * x), relation(x))


def test_mirrored_in_mirrored_out() -> None:
    x = features(1, 3, 7, 9)
    relation = HybridDistanceRelation(windows=WINDOWS)
    torch.testing.assert_close(relation(x.flip(3)), relation(x).flip(3))
    torch.testing.assert_close(relation(x.transpose(2, 3)), relation(x).transpose(2, 3))


def test_position_counts() -> None:
    x = features(1, 3, 8, 8)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    relation = HybridDistanceRelation(windows=(3, 5))
    shuffled = x.flatten(2)[..., order].view_as(x)
    assert not torch.allclose(relation(shuffled), relation(x).flatten(2)[..., order].view(1, 4, 8, 8))


@pytest.mark.parametrize("options", [{}, {"rings": True}, {"aggregate": "atrous"}, {"distance": "euclidean"}])
def test_gradients(options: dict[str, Any]) -> None:
    x = features(1, 2, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(HybridDistanceRelation(windows=(3, 7), **options), (x,))


def test_zeros_are_like_nothing() -> None:
    x = torch.zeros(1, 2, 3, 3, requires_grad=True)
    relation = HybridDistanceRelation(windows=(3, 5))(x)
    assert bool((relation == 0).all())
    (gradient,) = torch.autograd.grad(relation.sum(), x)
    assert bool(torch.isfinite(gradient).all())


def test_half_precision_is_computed_in_float32() -> None:
    x = features(1, 16, 9, 9).to(torch.bfloat16)
    relation = HybridDistanceRelation(windows=WINDOWS)
    assert relation(x).dtype == torch.bfloat16
    torch.testing.assert_close(relation(x).float(), relation(x.float()), rtol=0.01, atol=0.01)


def test_messages() -> None:
    for options, expected in (
        ({"windows": (4,)}, "windows must be odd and positive, so that they have a centre; got [4]"),
        ({"pools": ("min",)}, "pools are 'avg' and 'max', got ['min']"),
        ({"distance": "l2"}, "distance is 'cosine', 'dot' or 'euclidean', got 'l2'"),
        ({"aggregate": "ring"}, "aggregate is 'pool' or 'atrous', got 'ring'"),
        (
            {"aggregate": "atrous", "rings": True},
            "rings are the difference of two windows; with aggregate='atrous' there is none",
        ),
    ):
        with pytest.raises(UsageError, match=f"^{re.escape(expected)}$"):
            HybridDistanceRelation(**options)
    expected = "pooling takes floating-point maps (B, C, h, w), got torch.float32 of shape (3, 4, 5)"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        HybridDistanceRelation()(torch.zeros(3, 4, 5))
