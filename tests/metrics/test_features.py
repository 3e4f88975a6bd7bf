# SPDX-License-Identifier: Apache-2.0
"""Feature scatter: limits, an independent computation, invariances."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from denseg.errors import ShapeError, UsageError
from denseg.metrics import FeatureScatter, feature_compactness


def case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 5, 6, 7, generator=generator, dtype=torch.float64) + 3
    target = torch.randint(0, 4, (2, 6, 7), generator=generator)
    target[0, :2] = 255
    return features, target


def test_classes_that_are_points_are_compact_and_equal_means_are_not() -> None:
    _, target = case()
    target[target == 255] = 0
    points = torch.randn(4, 5, dtype=torch.float64)
    features = points[target].permute(0, 3, 1, 2)
    assert feature_compactness(features, target, 4).compactness == pytest.approx(1)
    both = torch.stack([torch.ones(1, 2, 2), -torch.ones(1, 2, 2)])  # every class holds +1 and -1 equally
    assert feature_compactness(both, torch.tensor([[0, 0], [1, 1]]).repeat(2, 1, 1), 2).compactness == 0


def test_equals_scatter_matrices() -> None:
    features, target = case()
    rows, labels = features.permute(0, 2, 3, 1).reshape(-1, 5).numpy(), target.flatten().numpy()
    rows, labels = rows[labels != 255], labels[labels != 255]
    total = np.trace(np.cov(rows.T, bias=True))
    within = sum(np.trace(np.cov(rows[labels == k].T, bias=True)) * (labels == k).mean() for k in range(4))
    scatter = feature_compactness(features, target, 6)
    assert scatter.between == pytest.approx(total - within)
    assert scatter.compactness == pytest.approx(1 - within / total)
    np.testing.assert_allclose(scatter.centers[:4], [rows[labels == k].mean(axis=0) for k in range(4)])
    assert np.isnan(scatter.within[4:]).all()


def test_images_add_up() -> None:
    features, target = case()
    whole = feature_compactness(features, target, 4)
    parts = feature_compactness(features[:1], target[0], 4) + feature_compactness(features[1:], target[1:], 4)
    assert parts.compactness == pytest.approx(whole.compactness)


def test_turning_shifting_and_scaling_features_changes_nothing() -> None:
    features, target = case()
    turn, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    moved = 7 * torch.einsum("ed,bdhw->behw", turn, features) + 2
    expected = feature_compactness(features, target, 4).compactness
    assert feature_compactness(moved, target, 4).compactness == pytest.approx(expected)


def test_the_label_under_the_middle_of_a_position_counts() -> None:
    target = torch.zeros(1, 16, 24, dtype=torch.int64)
    target[:, :, 8:16] = 1
    features = torch.tensor([[[[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]]])
    scatter = feature_compactness(features, target, 2)
    assert scatter.counts.tolist() == [4, 2]
    assert scatter.compactness == 1


def test_nothing_to_count_is_not_a_number() -> None:
    features, target = case()
    assert math.isnan(feature_compactness(features, torch.full_like(target, 255), 4).compactness)
    assert math.isnan(feature_compactness(torch.ones_like(features), target, 4).compactness)


def test_messages() -> None:
    features, target = case()
    message = (
        "feature_compactness takes features (B, D, h, w) and labels (B, H, W), got torch.float64 (2, 5, 6, 7) and "
        "(1, 6, 7)"
    )
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        feature_compactness(features, target[:1], 4)
    with pytest.raises(ShapeError, match=r"^target must hold classes 0\.\.1 or 255, got [23]$"):
        feature_compactness(features, target, 2)
    first, second = (FeatureScatter(np.zeros(k, np.int64), np.zeros((k, 3)), np.zeros(k)) for k in (2, 3))
    message = "scatters to merge must agree in classes and channels, got (2, 3) and (3, 3)"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        _ = first + second
