# SPDX-License-Identifier: Apache-2.0
"""The weighted sum that training sees."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import denseg.losses.composite
from denseg.errors import ShapeError, UnknownNameError, UsageError
from denseg.losses import LOSSES, CompositeLoss, cross_entropy_loss, dice_loss
from denseg.losses.pixels import shrink_target
from denseg.types import SegmentationOutput

K = 3


def make(batch: int = 2, size: tuple[int, int] = (8, 12), aux: int = 1) -> tuple[SegmentationOutput, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def scores(height: int, width: int) -> Tensor:
        return torch.randn(batch, K, height, width, generator=generator, dtype=torch.float64).requires_grad_()

    output = SegmentationOutput(
        scores(*size), tuple(scores(*size) for _ in range(aux)), scores(size[0] // 4, size[1] // 4), scores(2, 3)
    )
    target = torch.randint(0, K, (batch, *size), generator=generator)
    target[0, :3] = 255
    return output, target


def test_the_total_is_the_weighted_sum_of_the_parts() -> None:
    output, target = make(aux=2)
    loss = CompositeLoss({"cross_entropy": 0.5, "dice": {"weight": 2, "smooth": 1.0}}, num_classes=K, aux_weight=0.3)(
        output, target
    )
    ce, dice = cross_entropy_loss(output.logits, target), dice_loss(output.logits, target, smooth=1.0)
    ce_aux = sum(cross_entropy_loss(aux, target) for aux in output.aux_logits)
    dice_aux = sum(dice_loss(aux, target, smooth=1.0) for aux in output.aux_logits)
    torch.testing.assert_close(loss.total, 0.5 * (ce + 0.3 * ce_aux) + 2 * (dice + 0.3 * dice_aux))
    assert list(loss.parts) == ["cross_entropy", "cross_entropy/aux", "dice", "dice/aux"]
    for value, expected in zip(loss.parts.values(), (ce, ce_aux, dice, dice_aux), strict=True):
        torch.testing.assert_close(value, expected.detach())
        assert not value.requires_grad


def test_without_auxiliary_scores_or_weight_there_is_no_auxiliary_part() -> None:
    output, target = make(aux=0)
    assert list(CompositeLoss({"dice": 1.0}, num_classes=K)(output, target).parts) == ["dice"]
    output, target = make(aux=1)
    assert list(CompositeLoss({"dice": 1.0}, num_classes=K, aux_weight=0)(output, target).parts) == ["dice"]


def test_a_weight_map_reaches_every_loss() -> None:
    output, target = make()
    weight = torch.rand(target.shape, dtype=torch.float64)
    loss = CompositeLoss({"cross_entropy": 1.0}, num_classes=K, aux_weight=1.0)(output, target, weight=weight)
    expected = [cross_entropy_loss(s, target, weight=weight) for s in (output.logits, *output.aux_logits)]
    torch.testing.assert_close(loss.total, sum(expected))


def test_at_the_heatmap_scores_meet_the_labels_under_them() -> None:
    output, target = make()
    weight = torch.rand(target.shape, dtype=torch.float64)
    composite = CompositeLoss({"cross_entropy": 1.0}, num_classes=K, loss_at="heatmap")
    loss = composite(output, target, weight=weight)
    small, small_weight = target[:, ::4, ::4], weight[:, ::4, ::4]
    torch.testing.assert_close(
        loss.parts["cross_entropy"], cross_entropy_loss(output.heatmap, small, weight=small_weight).detach()
    )
    auxiliary = cross_entropy_loss(output.aux_logits[0], target, weight=weight)
    torch.testing.assert_close(loss.parts["cross_entropy/aux"], auxiliary.detach())
    torch.testing.assert_close(composite.mass(target, size=(2, 3), weight=weight)[0], small_weight[small != 255].sum())
    expected = "mass needs the heatmap's size with loss_at='heatmap'; give size=(h, w)"
    with pytest.raises(UsageError, match=f"^{re.escape(expected)}$"):
        composite.mass(target)


@pytest.mark.parametrize(
    ("length", "count", "stride"),
    [(321, 41, 8), (320, 40, 8), (17, 3, 8), (15, 2, 8), (33, 3, 16), (64, 64, 1), (5, 1, 8)],
)
def test_labels_are_picked_at_multiples_of_the_stride(length: int, count: int, stride: int) -> None:
    rows = torch.arange(length).expand(1, length, length).transpose(1, 2)
    assert shrink_target(rows, (count, count))[0, :, 0].tolist() == list(range(0, length, stride))


def test_labels_are_picked_evenly_where_no_stride_fits() -> None:
    rows = torch.arange(9).reshape(1, 9, 1)
    assert shrink_target(rows, (4, 1)).flatten().tolist() == [1, 3, 5, 7]


@pytest.mark.parametrize("weights", [{"cross_entropy": 1.0}, {"cross_entropy": 0.7, "dice": {"weight": 0.3}}])
def test_micro_batches_normalised_by_their_common_mass(weights: dict[str, Any]) -> None:
    output, target = make()
    composite = CompositeLoss(weights, num_classes=K)
    parts = []
    for i in range(2):
        auxiliary = (output.aux_logits[0][i : i + 1],)
        part = output._replace(logits=output.logits[i : i + 1], aux_logits=auxiliary)
        parts.append((part, target[i : i + 1]))
    normalizer = sum(composite.mass(labels) for _, labels in parts)
    torch.testing.assert_close(normalizer, composite.mass(target))
    totals = [composite(out, labels, normalizer=normalizer).total for out, labels in parts]
    if list(weights) == ["cross_entropy"]:
        torch.testing.assert_close(sum(totals), composite(output, target).total)
    torch.testing.assert_close(
        composite(output, target, normalizer=float(composite.mass(target)[0])).total, composite(output, target).total
    )


class Table(nn.Module):
    """A loss with a table that moves after the step, on features."""

    reads: ClassVar[str] = "features"

    def __init__(self, num_classes: int, *, ignore_index: int = 255) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, features: Tensor, target: Tensor, *, weight: Any = None, normalizer: Any = None) -> Tensor:
        return features.square().mean()

    def mass(self, target: Tensor, *, weight: Any = None) -> Tensor:
        return torch.ones(())

    def update(self) -> None:
        self.steps += 1


def test_a_loss_may_read_features_and_keep_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denseg.losses.composite, "LOSSES", MappingProxyType({**LOSSES, "table": Table}))
    output, target = make()
    composite = CompositeLoss({"cross_entropy": 1.0, "table": 0.1}, num_classes=K)
    loss = composite(output, target)
    torch.testing.assert_close(loss.parts["table"], output.features.square().mean().detach())
    assert "table/aux" not in loss.parts
    composite.update()
    assert {name: int(value) for name, value in composite.state_dict().items()} == {"members.table.steps": 1}


def test_faults_are_named() -> None:
    with pytest.raises(UnknownNameError, match=r"^no loss named 'dise'\. Did you mean 'dice'\? Known: "):
        CompositeLoss({"dise": 1.0}, num_classes=K)
    expected = "no option of the loss dice named 'smoth'. Did you mean 'smooth'? Known: smooth, weight"
    with pytest.raises(UnknownNameError, match=f"^{re.escape(expected)}$"):
        CompositeLoss({"dice": {"smoth": 1}}, num_classes=K)
    expected = "the loss names no member; give for example {'cross_entropy': 1.0}"
    with pytest.raises(UsageError, match=f"^{re.escape(expected)}$"):
        CompositeLoss({}, num_classes=K)
    expected = "loss_at must be 'input' or 'heatmap', got 'logits'"
    with pytest.raises(UsageError, match=f"^{re.escape(expected)}$"):
        CompositeLoss({"dice": 1.0}, num_classes=K, loss_at="logits")  # type: ignore[arg-type]


@pytest.mark.parametrize("label", [3, -1, 254])
def test_a_label_outside_the_classes_is_refused_by_value(label: int) -> None:
    output, target = make()
    target[1, 2, 3] = label
    expected = f"labels must be 0..2 or 255 (ignored), got {label}; run `denseg check` on the data"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        CompositeLoss({"cross_entropy": 1.0}, num_classes=K)(output, target)
