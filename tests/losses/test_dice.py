# SPDX-License-Identifier: Apache-2.0
"""Dice on probabilities, by hand and against counting."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from denseg.losses import DiceLoss, dice_loss


def one_hot_scores(labels: torch.Tensor, num_classes: int, scale: float = 50.0) -> torch.Tensor:
    return scale * torch.nn.functional.one_hot(labels, num_classes).movedim(-1, 1).double()


def test_hard_scores_give_the_dice_of_the_masks() -> None:
    rng = np.random.default_rng(0)
    target, prediction = rng.integers(0, 3, (2, 2, 8, 9))
    expected = []
    for k in range(3):
        a, b = prediction == k, target == k
        expected.append(1 - 2 * (a & b).sum() / (a.sum() + b.sum()))
    loss = dice_loss(one_hot_scores(torch.from_numpy(prediction), 3), torch.from_numpy(target))
    assert float(loss) == pytest.approx(np.mean(expected), abs=1e-9)


def test_by_hand_on_probabilities() -> None:
    logits = torch.log(torch.tensor([[[[0.75, 0.5]], [[0.25, 0.5]]]], dtype=torch.float64))
    target = torch.tensor([[[0, 1]]])
    # class 0: overlap 0.75, scores 1.25, labels 1; class 1: overlap 0.5, scores 0.75, labels 1
    expected = ((1 - 2 * 0.75 / 2.25) + (1 - 2 * 0.5 / 1.75)) / 2
    assert float(dice_loss(logits, target)) == pytest.approx(expected)
    smooth = ((1 - (1.5 + 1) / (2.25 + 1)) + (1 - (1 + 1) / (1.75 + 1))) / 2
    assert float(DiceLoss(2, smooth=1.0)(logits, target)) == pytest.approx(smooth)
    weight = torch.tensor([[[2.0, 1.0]]], dtype=torch.float64)
    # class 0: overlap 1.5, scores 2, labels 2; class 1: overlap 0.5, scores 1, labels 1
    weighted = ((1 - 2 * 1.5 / 4) + (1 - 2 * 0.5 / 2)) / 2
    assert float(dice_loss(logits, target, weight=weight)) == pytest.approx(weighted)


def test_absent_classes_take_no_part() -> None:
    target = torch.zeros(1, 4, 4, dtype=torch.int64)
    assert float(dice_loss(one_hot_scores(target, 5), target)) == pytest.approx(0, abs=1e-9)


def test_areas_are_summed_over_the_batch_not_averaged_over_images() -> None:
    target = torch.zeros(2, 2, 2, dtype=torch.int64)
    target[0, 0, 0] = 1  # the only pixel of class 1
    prediction = target.clone()
    prediction[1, 1, 1] = 1
    # class 0: overlap 6, areas 6 + 7; class 1: overlap 1, areas 2 + 1
    expected = ((1 - 12 / 13) + (1 - 2 / 3)) / 2
    assert float(dice_loss(one_hot_scores(prediction, 2), target)) == pytest.approx(expected, abs=1e-9)
