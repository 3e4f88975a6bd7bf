# SPDX-License-Identifier: Apache-2.0
"""Tversky loss by counting, and as Dice."""

from __future__ import annotations

import re

import pytest
import torch

from denseg.errors import UsageError
from denseg.losses import TverskyLoss, dice_loss, tversky_loss


def sample() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (2, 5, 4), generator=generator)
    target[0, :2] = 255
    return 2 * torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64), target


def test_half_and_half_is_dice() -> None:
    logits, target = sample()
    torch.testing.assert_close(tversky_loss(logits, target, alpha=0.5, beta=0.5), dice_loss(logits, target))


def test_hard_scores_give_the_index_of_the_masks() -> None:
    _, target = sample()
    prediction = target.where(target != 255, 0).roll(1, dims=2)
    logits = 50 * torch.nn.functional.one_hot(prediction, 3).movedim(-1, 1).double()
    expected = []
    for k in range(3):
        p, t = (prediction == k)[target != 255], (target == k)[target != 255]
        hit, alarm, miss = (p & t).sum(), (p & ~t).sum(), (~p & t).sum()
        expected.append(float(1 - hit / (hit + 0.2 * alarm + 0.8 * miss)))
    loss = TverskyLoss(3, alpha=0.2, beta=0.8)
    assert float(loss(logits, target)) == pytest.approx(sum(expected) / 3)
    power = TverskyLoss(3, alpha=0.2, beta=0.8, gamma=0.75)
    assert float(power(logits, target)) == pytest.approx(sum(value**0.75 for value in expected) / 3)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_a_perfect_answer_has_a_finite_gradient(gamma: float) -> None:
    target = torch.zeros(1, 2, 2, dtype=torch.int64)
    logits = torch.tensor([1000.0, -1000.0]).reshape(1, 2, 1, 1).expand(1, 2, 2, 2).clone().requires_grad_()
    loss = tversky_loss(logits, target, gamma=gamma)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-3)
    assert bool(torch.isfinite(logits.grad).all())


def test_options_out_of_range_are_refused() -> None:
    expected = "alpha, beta and smooth must be at least 0, alpha + beta and gamma above 0, got 0, 0, 0.0 and 1.0"
    with pytest.raises(UsageError, match=f"^{re.escape(expected)}$"):
        TverskyLoss(3, alpha=0, beta=0)
