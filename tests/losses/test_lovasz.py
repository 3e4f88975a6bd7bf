# SPDX-License-Identifier: Apache-2.0
"""Lovasz-softmax against its definition as an extension of set functions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from denseg.losses import LovaszLoss, lovasz_loss


def iou_loss(wrong: NDArray[np.bool_], truth: NDArray[np.bool_], weight: NDArray[np.float64]) -> float:
    """One minus the IoU of a class when the pixels of ``wrong`` are wrong: the set function that is extended."""
    prediction = truth ^ wrong
    union = weight[prediction | truth].sum()
    return 1 - weight[prediction & truth].sum() / union if union else 0.0


def extension(errors: NDArray[np.float64], truth: NDArray[np.bool_], weight: NDArray[np.float64]) -> float:
    """The Lovasz extension as an integral over thresholds of the set function."""
    levels = np.unique(np.concatenate([[0.0], errors]))
    total = 0.0
    for low, high in itertools.pairwise(levels):
        total += (high - low) * iou_loss(errors > low, truth, weight)
    return total


def sample() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (2, 5, 4), generator=generator)
    target[0, :2] = 255
    logits = 2 * torch.randn(2, 4, 5, 4, generator=generator, dtype=torch.float64)
    return logits, target, torch.rand(target.shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("weighted", [False, True])
def test_is_the_extension_of_the_iou_loss(weighted: bool) -> None:
    logits, target, weight = sample()
    weight = weight if weighted else torch.ones_like(weight)
    valid = target != 255
    probabilities = logits.softmax(dim=1).movedim(1, -1)[valid].numpy()
    expected = []
    for k in range(3):  # class 3 has no pixel and takes no part
        truth = (target[valid] == k).numpy()
        expected.append(extension(np.abs(truth - probabilities[:, k]), truth, weight[valid].numpy()))
    loss = lovasz_loss(logits, target, weight=weight if weighted else None)
    assert float(loss) == pytest.approx(np.mean(expected))


def test_hard_answers_give_one_minus_the_iou() -> None:
    _, target, _ = sample()
    prediction = target.where(target != 255, 0).roll(1, dims=2)
    logits = 60 * torch.nn.functional.one_hot(prediction, 4).movedim(-1, 1).double()
    p, t = prediction[target != 255], target[target != 255]
    iou = [float(((p == k) & (t == k)).sum() / ((p == k) | (t == k)).sum()) for k in range(3)]
    assert float(lovasz_loss(logits, target)) == pytest.approx(1 - np.mean(iou))


def test_per_image_is_the_mean_of_the_images_with_labels() -> None:
    logits, target, _ = sample()
    alone = [lovasz_loss(logits[i : i + 1], target[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(LovaszLoss(4, per_image=True)(logits, target), sum(alone) / 2)
    target[0] = 255
    torch.testing.assert_close(LovaszLoss(4, per_image=True)(logits, target), alone[1])
