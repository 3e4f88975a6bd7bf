# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy equals torch's, and stays defined where torch's is not."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from denseg.errors import UsageError
from denseg.losses import CrossEntropyLoss, cross_entropy_loss

CLASS_WEIGHT = torch.tensor([0.5, 2.0, 1.0])


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (2, 5, 4), generator=generator)
    target[0, :2] = 255
    return torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64), target


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("class_weight", [None, CLASS_WEIGHT])
def test_equals_torch(batch: tuple[Tensor, Tensor], class_weight: Tensor | None, label_smoothing: float) -> None:
    logits, target = batch
    ours = cross_entropy_loss(logits, target, class_weight=class_weight, label_smoothing=label_smoothing)
    double = None if class_weight is None else class_weight.double()
    theirs = F.cross_entropy(logits, target, weight=double, ignore_index=255, label_smoothing=label_smoothing)
    torch.testing.assert_close(ours, theirs)
    options = None if class_weight is None else class_weight.tolist()
    module = CrossEntropyLoss(3, class_weight=options, label_smoothing=label_smoothing)
    torch.testing.assert_close(module(logits, target), theirs)


def test_by_hand() -> None:
    logits = torch.tensor([[[[0.0, 2.0]], [[0.0, 0.0]]]], dtype=torch.float64)  # (1, 2, 1, 2)
    target = torch.tensor([[[0, 1]]])
    wrong = torch.log(1 + torch.exp(torch.tensor(2.0, dtype=torch.float64)))
    right = torch.log(torch.tensor(2.0, dtype=torch.float64))
    torch.testing.assert_close(cross_entropy_loss(logits, target), (right + wrong) / 2)
    weight = torch.tensor([[[3.0, 1.0]]], dtype=torch.float64)
    torch.testing.assert_close(cross_entropy_loss(logits, target, weight=weight), (3 * right + wrong) / 4)
    class_weight = torch.tensor([1.0, 5.0])
    both = cross_entropy_loss(logits, target, weight=weight, class_weight=class_weight)
    torch.testing.assert_close(both, (3 * right + 5 * wrong) / 8)


def test_ignore_index_may_be_any_value(batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch
    for ignore_index in (-100, -1, 3, 65535):
        moved = torch.where(target == 255, ignore_index, target)
        torch.testing.assert_close(
            cross_entropy_loss(logits, moved, ignore_index=ignore_index), cross_entropy_loss(logits, target)
        )


@pytest.mark.parametrize("class_weight", [None, CLASS_WEIGHT.tolist()])
def test_micro_batches_of_unequal_labels_sum_to_the_whole(
    batch: tuple[Tensor, Tensor], class_weight: list[float] | None
) -> None:
    logits, target = batch
    loss = CrossEntropyLoss(3, class_weight=class_weight)
    whole = loss.mass(target)
    parts = [loss(logits[i : i + 1], target[i : i + 1], normalizer=whole) for i in range(2)]
    torch.testing.assert_close(sum(parts), loss(logits, target))
    assert loss.mass(target[:1]) != loss.mass(target[1:])


def test_a_class_weight_of_the_wrong_length_is_refused() -> None:
    expected = "class_weight needs one factor per class, 3; got 2"
    with pytest.raises(UsageError, match=f"^{re.escape(expected)}$"):
        CrossEntropyLoss(3, class_weight=[1.0, 2.0])
