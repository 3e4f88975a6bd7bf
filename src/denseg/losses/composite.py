# SPDX-License-Identifier: Apache-2.0
"""The one loss that training sees: a weighted sum of losses by name, over the main and the auxiliary scores.

Shape letters: B batch, K classes, H and W height and width of the labels, M losses in the sum.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from denseg.errors import ShapeError, UnknownNameError, UsageError
from denseg.losses.catalog import LOSSES
from denseg.losses.pixels import shrink_target
from denseg.types import SegmentationOutput

__all__ = ["CompositeLoss", "Loss"]


class Loss(NamedTuple):
    """What ``CompositeLoss`` gives.

    Attributes:
        total: The scalar to differentiate.
        parts: Each loss before its weight, detached scalars: ``dice``, and ``dice/aux`` summed over auxiliary scores.
    """

    total: Tensor
    parts: dict[str, Tensor]


class CompositeLoss(nn.Module):
    """A weighted sum of losses.

    A loss of the catalog is a module with ``reads`` (the field of ``SegmentationOutput`` that it takes: ``logits`` or
    ``features``), ``forward(scores, target, *, weight, normalizer)`` and ``mass(target, *, weight)``; it may hold
    buffers and have ``update()``, called after each optimiser step.

    Attributes:
        members: The losses by name.
        weights: The factor of each.
    """

    def __init__(
        self,
        weights: Mapping[str, float | Mapping[str, Any]],
        *,
        num_classes: int,
        ignore_index: int = 255,
        aux_weight: float = 0.4,
        loss_at: Literal["input", "heatmap"] = "input",
        feature_channels: int | None = None,
    ) -> None:
        """Build the losses.

        Args:
            weights: Factor by loss name, or a mapping of ``weight`` (1 if left out) and the loss's own options.
            num_classes: K.
            ignore_index: Label that carries no class.
            aux_weight: Factor of the same sum over auxiliary scores.
            loss_at: Where scores and labels meet: at the ``input``'s size, or at the ``heatmap``'s, on labels picked
                under its positions.
            feature_channels: Channels of ``SegmentationOutput.features``, for losses that read them.

        Raises:
            UnknownNameError: There is no loss, or no option, of a name.
            UsageError: No loss is named, or ``loss_at`` is neither of the two.
        """
        super().__init__()
        if not weights:
            raise UsageError("the loss names no member; give for example {'cross_entropy': 1.0}")
        if loss_at not in {"input", "heatmap"}:
            raise UsageError(f"loss_at must be 'input' or 'heatmap', got {loss_at!r}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.aux_weight = aux_weight
        self.loss_at = loss_at
        self.weights: dict[str, float] = {}
        self.members = nn.ModuleDict()
        for name, value in weights.items():
            options = dict(value) if isinstance(value, Mapping) else {"weight": value}
            self.weights[name] = float(options.pop("weight", 1.0))
            if feature_channels is not None and "in_channels" in loss_options(name):
                options.setdefault("in_channels", feature_channels)
            self.members[name] = create_loss(name, num_classes=num_classes, ignore_index=ignore_index, **options)

    def forward(
        self, output: SegmentationOutput, target: Tensor, *, normalizer: Tensor | float | None = None, **maps: Tensor
    ) -> Loss:
        """Compute the sum.

        Args:
            output: What the model returned.
            target: ``(B, H, W)`` int64 in 0..K-1 or ``ignore_index``.
            normalizer: What the means divide by, where this batch is a part of a step: the sum of ``mass`` over the
                parts, ``(M,)``, or one number for all losses (divided by the number of processes where their gradients
                are averaged).
            **maps: Per-pixel maps, ``(B, H, W)``: ``weight``. Others are left to the losses that know them.

        Returns:
            The total and its parts.

        Raises:
            ShapeError: Shapes, dtypes or labels do not fit.
        """
        check_labels(target, num_classes=self.num_classes, ignore_index=self.ignore_index)
        masses = None if normalizer is None else torch.as_tensor(normalizer).expand(len(self.members))
        weight = maps.get("weight")
        scores, labels, label_weight = output.logits, target, weight
        if self.loss_at == "heatmap":
            size = (output.heatmap.shape[2], output.heatmap.shape[3])
            scores, labels = output.heatmap, shrink_target(target, size)
            label_weight = None if weight is None else shrink_target(weight, size)
        parts: dict[str, Tensor] = {}
        total = output.logits.new_zeros((), dtype=torch.float32)
        for index, (name, member) in enumerate(self.members.items()):
            mass = None if masses is None else masses[index]
            reads = getattr(member, "reads", "logits")
            if reads == "logits":
                value = member(scores, labels, weight=label_weight, normalizer=mass)
            else:
                value = member(getattr(output, reads), target, weight=weight, normalizer=mass)
            total = total + self.weights[name] * value
            parts[name] = value.detach()
            if output.aux_logits and reads == "logits" and self.aux_weight:
                auxiliary = torch.stack(
                    [member(aux, target, weight=weight, normalizer=mass) for aux in output.aux_logits]
                ).sum()
                total = total + self.weights[name] * self.aux_weight * auxiliary
                parts[f"{name}/aux"] = auxiliary.detach()
        return Loss(total, parts)

    def mass(self, target: Tensor, *, size: tuple[int, int] | None = None, **maps: Tensor) -> Tensor:
        """Give what the mean of each loss divides by; the sum over the parts of a step is its ``normalizer``.

        Args:
            target: ``(B, H, W)`` int64.
            size: ``(h, w)`` of the heatmap; needed with ``loss_at="heatmap"`` only.
            **maps: The same as for ``forward``.

        Returns:
            ``(M,)``.

        Raises:
            UsageError: The losses meet the labels at the heatmap and ``size`` is not given.
        """
        weight = maps.get("weight")
        if self.loss_at == "heatmap":
            if size is None:
                raise UsageError("mass needs the heatmap's size with loss_at='heatmap'; give size=(h, w)")
            target = shrink_target(target, size)
            weight = None if weight is None else shrink_target(weight, size)
        return torch.stack([member.mass(target, weight=weight) for member in self.members.values()])  # type: ignore[operator]

    def update(self) -> None:
        """Let losses that keep tables move them; call after each optimiser step, on every process."""
        for member in self.members.values():
            update = getattr(member, "update", None)
            if callable(update):
                update()


def create_loss(name: str, *, num_classes: int, ignore_index: int = 255, **options: Any) -> nn.Module:
    """Build one loss by name.

    Args:
        name: Catalog name, see ``LOSSES``.
        num_classes: K.
        ignore_index: Label that carries no class.
        **options: The loss's own options.

    Returns:
        The loss.

    Raises:
        UnknownNameError: There is no loss, or no option, of that name.
        UsageError: The loss reads features and does not know how many channels they have.
    """
    known = loss_options(name)
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of the loss {name}", option, [*known, "weight"])
    if "in_channels" in known - options.keys():
        raise UsageError(f"the loss {name} reads features; give in_channels, the channels of the model's features")
    return LOSSES[name](num_classes=num_classes, ignore_index=ignore_index, **options)


def loss_options(name: str) -> set[str]:
    """Tell which options a loss takes.

    Args:
        name: Catalog name, see ``LOSSES``.

    Returns:
        Names of its keyword arguments, classes and ignore index aside.

    Raises:
        UnknownNameError: There is no loss of that name.
    """
    if name not in LOSSES:
        raise UnknownNameError("loss", name, LOSSES)
    return set(inspect.signature(LOSSES[name]).parameters) - {"num_classes", "ignore_index"}


def check_labels(target: Tensor, *, num_classes: int, ignore_index: int) -> None:
    """Refuse a label outside the classes; on a GPU the check is left out, since it would wait for the device.

    Args:
        target: ``(B, H, W)`` int64.
        num_classes: K.
        ignore_index: Label that carries no class.

    Raises:
        ShapeError: A label is neither a class nor ``ignore_index``.
    """
    if target.device.type != "cpu" or target.numel() == 0:
        return
    low, high = (int(bound) for bound in torch.aminmax(target))
    if low >= 0 and high < num_classes:
        return
    wrong = target[(target != ignore_index) & ((target < 0) | (target >= num_classes))]
    if wrong.numel():
        raise ShapeError(
            f"labels must be 0..{num_classes - 1} or {ignore_index} (ignored), got {int(wrong[0])}; "
            "run `denseg check` on the data"
        )
