# SPDX-License-Identifier: Apache-2.0
"""Dice loss: one minus twice the overlap over the sum of the areas, per class, counted over the batch.

Paper:
    F. Milletari et al., "V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation",
    3DV 2016. https://arxiv.org/abs/1606.04797 - Section 3.
Departures from the paper:
    The denominator sums the scores; the paper sums their squares.

Shape letters: B batch, K classes, H and W height and width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from denseg.losses.pixels import check_pixels, divide, pixel_mass, single

__all__ = ["DiceLoss", "dice_loss"]


class DiceLoss(nn.Module):
    """See ``dice_loss``.

    Attributes:
        reads: Which field of the model's output it takes.
    """

    reads: ClassVar[str] = "logits"

    def __init__(self, num_classes: int, *, ignore_index: int = 255, smooth: float = 0.0) -> None:
        """Keep the options.

        Args:
            num_classes: K.
            ignore_index: Label that carries no class.
            smooth: Added to overlap and area of each class, in pixels.
        """
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.smooth = smooth

    def forward(
        self, logits: Tensor, target: Tensor, *, weight: Tensor | None = None, normalizer: Tensor | float | None = None
    ) -> Tensor:
        """See ``dice_loss``."""
        return dice_loss(
            logits, target, ignore_index=self.ignore_index, smooth=self.smooth, weight=weight, normalizer=normalizer
        )

    def mass(self, target: Tensor, *, weight: Tensor | None = None) -> Tensor:
        """See ``pixel_mass``."""
        return pixel_mass(target, ignore_index=self.ignore_index, weight=weight)


def dice_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    smooth: float = 0.0,
    weight: Tensor | None = None,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Mean over the classes in ``target`` of one minus their Dice coefficient on probabilities.

    Dice is ``(2 * overlap + smooth) / (area of scores + area of labels + smooth)``. Areas and overlap are summed over
    the labelled pixels of the whole batch; a class without a labelled pixel in the batch takes no part.

    Args:
        logits: ``(B, K, H, W)``; softmax over K is taken here, in float32 at least.
        target: ``(B, H, W)`` int64 in 0..K-1 or ``ignore_index``.
        ignore_index: Label that carries no class.
        smooth: Added to numerator and denominator, in pixels.
        weight: ``(B, H, W)`` factor per pixel, at least 0.
        normalizer: Mass of the whole step where this batch is a part of it; scales the loss by the part's share.

    Returns:
        The loss, a scalar in 0..1; 0 with gradient 0 where no pixel is labelled.

    Raises:
        ShapeError: Shapes or dtypes do not fit.
    """
    overlap, predicted, true = soft_counts(logits, target, ignore_index=ignore_index, weight=weight)  # each (K,)
    present = true > 0
    denominator = torch.where(present, predicted + true + smooth, 1)
    each = torch.where(present, 1 - (2 * overlap + smooth) / denominator, 0)  # (K,)
    loss = each.sum() / present.sum().clamp(min=1)
    return scale_by_share(loss, target, ignore_index=ignore_index, weight=weight, normalizer=normalizer)


def soft_counts(
    logits: Tensor, target: Tensor, *, ignore_index: int, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum probabilities per class over the labelled pixels of the batch.

    Args:
        logits: ``(B, K, H, W)``.
        target: ``(B, H, W)`` int64.
        ignore_index: Label that carries no class.
        weight: ``(B, H, W)`` factor per pixel, or ``None``.

    Returns:
        Per class, each ``(K,)``: probability on its own labels, probability anywhere, number of labels.
    """
    check_pixels(logits, target, weight)
    logits = single(logits)
    num_classes = logits.shape[1]
    valid = target != ignore_index
    factor = valid.to(logits.dtype) if weight is None else valid * weight.to(logits.dtype)  # (B, H, W)
    safe = torch.where(valid, target, 0)
    probabilities = logits.softmax(dim=1)
    own = probabilities.gather(1, safe.unsqueeze(1)).squeeze(1) * factor  # (B, H, W)
    empty = logits.new_zeros(num_classes)
    overlap = empty.scatter_add(0, safe.flatten(), own.flatten())
    true = empty.scatter_add(0, safe.flatten(), factor.flatten())
    predicted = (probabilities * factor.unsqueeze(1)).sum(dim=(0, 2, 3))  # (K,)
    return overlap, predicted, true


def scale_by_share(
    loss: Tensor, target: Tensor, *, ignore_index: int, weight: Tensor | None, normalizer: Tensor | float | None
) -> Tensor:
    """Scale the loss of a part of a step by the part's share of the step's labelled pixels.

    Args:
        loss: A scalar that is a ratio already (Dice and its kin).
        target: ``(B, H, W)`` int64.
        ignore_index: Label that carries no class.
        weight: ``(B, H, W)`` factor per pixel, or ``None``.
        normalizer: Mass of the whole step; ``None`` where this batch is the step.

    Returns:
        The scaled loss.
    """
    if normalizer is None:
        return loss
    return loss * divide(pixel_mass(target, ignore_index=ignore_index, weight=weight).to(loss.dtype), normalizer)
