# SPDX-License-Identifier: Apache-2.0
"""Focal loss by its formula."""

from __future__ import annotations

import re

import pytest
import torch

from denseg.errors import UsageError
from denseg.losses import FocalLoss, cross_entropy_loss, focal_loss


def sample() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (2, 5, 4), generator=generator)
    target[0, :2] = 255
    return 2 * torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64), target


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_is_its_formula(gamma: float) -> None:
    logits, target = sample()
    p = logits.softmax(dim=1).gather(1, target.where(target != 255, 0)[:, None])[:, 0][target != 255]
    torch.testing.assert_close(focal_loss(logits, target, gamma=gamma), (-((1 - p) ** gamma) * p.log()).mean())


def test_gamma_0_is_cross_entropy() -> None:
    logits, target = sample()
    weight = torch.tensor([1.0, 2.0, 0.5])
    torch.testing.assert_close(focal_loss(logits, target, gamma=0), cross_entropy_loss(logits, target))
    torch.testing.assert_close(
        FocalLoss(3, gamma=0, class_weight=weight.tolist())(logits, target),
        cross_entropy_loss(logits, target, class_weight=weight),
    )


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_certainty_has_a_finite_gradient(gamma: float) -> None:
    logits = torch.tensor([[[[800.0, -800.0]], [[-800.0, 800.0]]]], requires_grad=True)
    focal_loss(logits, torch.tensor([[[0, 0]]]), gamma=gamma).backward()
    assert bool(torch.isfinite(logits.grad).all())


def test_a_negative_gamma_is_refused() -> None:
    with pytest.raises(UsageError, match=f"^{re.escape('gamma must be at least 0, got -1')}$"):
        FocalLoss(3, gamma=-1)
