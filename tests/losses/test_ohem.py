# SPDX-License-Identifier: Apache-2.0
"""Hard example mining against sorting pixel by pixel."""

from __future__ import annotations

import re

import pytest
import torch

from denseg.errors import UsageError
from denseg.losses import OHEMLoss, cross_entropy_loss, ohem_loss


def sample() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (2, 9, 8), generator=generator)
    target[0, :2] = 255
    return 3 * torch.randn(2, 3, 9, 8, generator=generator, dtype=torch.float64), target


@pytest.mark.parametrize(("threshold", "min_kept"), [(0.7, 1), (0.2, 1), (0.0, 20), (0.1, 60), (1.0, 1), (0.5, 10**6)])
def test_keeps_what_the_definition_keeps(threshold: float, min_kept: int) -> None:
    logits, target = sample()
    pixels = [
        (float(logits[b, :, i, j].softmax(0)[target[b, i, j]]), b, i, j)
        for b in range(2)
        for i in range(9)
        for j in range(8)
        if target[b, i, j] != 255
    ]
    pixels.sort()
    kept = [p for p, *_ in pixels[:min_kept]] + [p for p, *_ in pixels[min_kept:] if p < threshold]
    expected = -torch.tensor(kept, dtype=torch.float64).log().mean()
    torch.testing.assert_close(ohem_loss(logits, target, threshold=threshold, min_kept=min_kept), expected)


def test_keeping_all_is_cross_entropy() -> None:
    logits, target = sample()
    weight = torch.tensor([1.0, 2.0, 0.5])
    torch.testing.assert_close(OHEMLoss(3)(logits, target), cross_entropy_loss(logits, target))
    torch.testing.assert_close(
        OHEMLoss(3, threshold=1.0, min_kept=1, class_weight=weight.tolist())(logits, target),
        cross_entropy_loss(logits, target, class_weight=weight),
    )


def test_easy_pixels_do_not_learn() -> None:
    logits, target = sample()
    logits.requires_grad_()
    ohem_loss(logits, target, threshold=0.3, min_kept=5).backward()
    learns = logits.grad.abs().sum(dim=1) > 0
    p = logits.detach().softmax(dim=1).gather(1, target.where(target != 255, 0)[:, None])[:, 0]
    assert bool((learns[target != 255] == (p < 0.3)[target != 255]).all())


def test_options_out_of_range_are_refused() -> None:
    expected = "threshold must be in 0..1 and min_kept at least 1, got 2 and 100000"
    with pytest.raises(UsageError, match=f"^{re.escape(expected)}$"):
        OHEMLoss(3, threshold=2)
