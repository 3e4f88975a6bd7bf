# SPDX-License-Identifier: Apache-2.0
"""Boundary loss: distances by brute force, the cost by hand."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from denseg.losses import boundary_loss
from denseg.losses.boundary import signed_distances


def test_distances_equal_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (2, 6, 7), generator=generator)
    target[0, 2:4, 2:5] = 1
    target[1, target[1] == 2] = 0
    distances = signed_distances(target, 3)
    for b, k in product(range(2), range(3)):
        points = list(product(range(6), range(7)))
        inside = [p for p in points if target[b][p] == k]
        outside = [p for p in points if target[b][p] != k]
        for p in points:
            expected = 0.0
            if inside and outside:
                expected = (
                    -min(math.dist(p, q) for q in outside) if p in inside else min(math.dist(p, q) for q in inside)
                )
            assert float(distances[b, k][p]) == pytest.approx(expected, abs=1e-5)


def test_the_cost_of_a_wrong_strip_is_its_distances() -> None:
    target = torch.zeros(1, 1, 8, dtype=torch.int64)
    target[..., 4:] = 1
    prediction = torch.zeros(1, 1, 8, dtype=torch.int64)
    prediction[..., 6:] = 1  # columns 4 and 5 wrong, at distance 1 and 2 in both classes
    logits = 60 * torch.nn.functional.one_hot(prediction, 2).movedim(-1, 1).double()
    assert float(boundary_loss(logits, target)) == pytest.approx(2 * (1 + 2) / 8)
    right = 60 * torch.nn.functional.one_hot(target, 2).movedim(-1, 1).double()
    assert float(boundary_loss(right, target)) == pytest.approx(0)


def test_farther_is_dearer() -> None:
    target = torch.zeros(1, 20, 20, dtype=torch.int64)
    target[:, 2:8, 2:8] = 1
    costs = []
    for column in (8, 12, 16):
        prediction = target.clone()
        prediction[:, 4, column] = 1
        logits = 60 * torch.nn.functional.one_hot(prediction, 2).movedim(-1, 1).double()
        costs.append(float(boundary_loss(logits, target)))
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]
