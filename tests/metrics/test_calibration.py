# SPDX-License-Identifier: Apache-2.0
"""Calibration against torchmetrics, by hand, and on probabilities that are right by construction."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from denseg.errors import ShapeError, UsageError
from denseg.metrics import Calibration, brier_score, expected_calibration_error


def sample(seed: int = 0, images: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    probabilities = (2 * torch.randn(images, 4, 16, 17, generator=generator, dtype=torch.float64)).softmax(dim=1)
    target = torch.randint(0, 4, (images, 16, 17), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    return probabilities, target


@pytest.mark.parametrize("bins", [5, 15])
def test_equals_torchmetrics(bins: int) -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    probabilities, target = sample()
    theirs = classification.MulticlassCalibrationError(num_classes=4, n_bins=bins, norm="l1", ignore_index=255)
    assert expected_calibration_error(probabilities, target, bins=bins) == pytest.approx(
        float(theirs(probabilities, target)), rel=1e-5
    )


def test_by_hand() -> None:
    # Confidences 0.9 (right), 0.9 (wrong), 0.6 (right); one pixel without label.
    probabilities = np.array([[[0.9, 0.9, 0.4, 0.5]], [[0.1, 0.1, 0.6, 0.5]]])
    target = np.array([[0, 1, 1, 255]])
    assert expected_calibration_error(probabilities, target, bins=10) == pytest.approx(
        (abs(1.8 - 1) + abs(0.6 - 1)) / 3
    )
    assert brier_score(probabilities, target) == pytest.approx((2 * 0.1**2 + 2 * 0.9**2 + 2 * 0.4**2) / 3)
    table = Calibration(bins=10).update(probabilities, target).reliability
    assert table.pixels.tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0, 2]
    assert table.confidence[[6, 9]] == pytest.approx([0.6, 0.9])
    assert table.accuracy[[6, 9]] == pytest.approx([1.0, 0.5])
    assert math.isnan(table.accuracy[0])


def test_honest_probabilities_have_no_error_and_sharpened_ones_do() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), 200_000)  # (N, 3)
    target = (rng.random((200_000, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    maps, labels = probabilities.T.reshape(3, 400, 500), target.reshape(400, 500)
    assert expected_calibration_error(maps, labels) < 0.005
    sharp = maps**3 / (maps**3).sum(axis=0)
    assert expected_calibration_error(sharp, labels) > 0.1
    assert brier_score(sharp, labels) > brier_score(maps, labels)


def test_limits() -> None:
    target = torch.randint(0, 3, (2, 5, 5), generator=torch.Generator().manual_seed(0))
    right = torch.nn.functional.one_hot(target, 3).movedim(-1, 1).double()
    assert (expected_calibration_error(right, target), brier_score(right, target)) == (0, 0)
    wrong = right.roll(1, dims=1)
    assert (expected_calibration_error(wrong, target), brier_score(wrong, target)) == (1, 2)
    nothing = torch.full_like(target, 255)
    assert math.isnan(expected_calibration_error(right, nothing))
    assert math.isnan(brier_score(right, nothing))


def test_images_add_up() -> None:
    probabilities, target = sample()
    whole = Calibration().update(probabilities, target)
    parts = Calibration().update(probabilities[:1], target[:1]) + Calibration().update(probabilities[1:], target[1:])
    assert parts.expected_calibration_error == pytest.approx(whole.expected_calibration_error)
    assert parts.brier_score == pytest.approx(whole.brier_score)
    one = Calibration().update(probabilities[0], target[0])
    assert one.brier_score == Calibration().update(probabilities[:1], target[:1]).brier_score


def test_faults_are_named() -> None:
    probabilities, target = sample()
    with pytest.raises(UsageError, match=r"^calibration needs at least 1 bin, got 0$"):
        Calibration(bins=0)
    with pytest.raises(UsageError, match=r"^calibrations to merge must agree in bins, got 15 and 10$"):
        Calibration() + Calibration(bins=10)
    expected = "calibration takes probabilities (B, K, H, W) and target (B, H, W), got (3, 4, 16, 17) and (1, 16, 17)"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        Calibration().update(probabilities, target[:1])
    expected = "probabilities must be at least 0 and sum to 1 over the classes; take the softmax of logits"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        Calibration().update(probabilities * 3, target)
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        Calibration().update(probabilities * float("nan"), target)
    with pytest.raises(ShapeError, match=r"^target must hold classes 0\.\.3, got 9$"):
        Calibration().update(probabilities, torch.full_like(target, 9))
