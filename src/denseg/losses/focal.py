# SPDX-License-Identifier: Apache-2.0
"""Focal loss: cross-entropy that pays less for pixels which are right already.

Paper:
    T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017. https://arxiv.org/abs/1708.02002 - Equation 4.
Departures from the paper:
    Softmax over the classes in place of one sigmoid each; the mean over labelled pixels in place of the sum over the
    number of matched anchors. ``class_weight`` is the paper's alpha.

Shape letters: B batch, K classes, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from denseg.errors import UsageError
from denseg.losses.cross_entropy import class_weights
from denseg.losses.pixels import check_pixels, divide, pixel_mass, single

__all__ = ["FocalLoss", "focal_loss"]


class FocalLoss(nn.Module):
    """See ``focal_loss``.

    Attributes:
        reads: Which field of the model's output it takes.
        class_weight: ``(K,)`` factor per class, or ``None``.
    """

    reads: ClassVar[str] = "logits"
    class_weight: Tensor | None

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_index: int = 255,
        gamma: float = 2.0,
        class_weight: Sequence[float] | None = None,
    ) -> None:
        """Keep the options.

        Args:
            num_classes: K.
            ignore_index: Label that carries no class.
            gamma: How fast the price falls with the probability of the true class; 0 is cross-entropy.
            class_weight: One factor per class.

        Raises:
            UsageError: ``gamma`` is negative.
        """
        super().__init__()
        if gamma < 0:
            raise UsageError(f"gamma must be at least 0, got {gamma}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.gamma = gamma
        self.register_buffer("class_weight", class_weights(class_weight, num_classes), persistent=False)

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        """See ``focal_loss``."""
        return focal_loss(
            logits,
            target,
            ignore_index=self.ignore_index,
            gamma=self.gamma,
            class_weight=self.class_weight,
            weight=weight,
            normalizer=normalizer,
        )

    def mass(self, target: Tensor, *, weight: Tensor | None = None) -> Tensor:
        """See ``pixel_mass``: the sum of the weights of the labelled pixels."""
        return pixel_mass(target, ignore_index=self.ignore_index, class_weight=self.class_weight, weight=weight)


def focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    gamma: float = 2.0,
    class_weight: Tensor | None = None,
    weight: Tensor | None = None,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Mean over labelled pixels of ``-(1 - p) ** gamma * log p``, p the probability of the true class.

    Args:
        logits: ``(B, K, H, W)``; softmax over K is taken here, in float32 at least.
        target: ``(B, H, W)`` int64 in 0..K-1 or ``ignore_index``.
        ignore_index: Label that carries no class.
        gamma: How fast the price falls with p; 0 is cross-entropy.
        class_weight: ``(K,)`` factor per class.
        weight: ``(B, H, W)`` factor per pixel, at least 0.
        normalizer: What the weighted sum is divided by; the sum of the weights of these pixels where not given.

    Returns:
        The loss, a scalar; 0 with gradient 0 where no pixel is labelled.

    Raises:
        ShapeError: Shapes or dtypes do not fit.
    """
    check_pixels(logits, target, weight)
    each = F.cross_entropy(single(logits), target, ignore_index=ignore_index, reduction="none")  # (B, H, W): -log p
    if gamma:
        # 1 - p, exact also where p is near 1; kept above 0, where a power below 1 has no slope.
        each = each * (-(-each).expm1()).clamp_min(1e-12 if gamma < 1 else 0) ** gamma
    if class_weight is not None:
        each = each * class_weight.to(each)[target.where(target != ignore_index, 0)]
    if weight is not None:
        each = each * weight
    if normalizer is None:
        normalizer = pixel_mass(target, ignore_index=ignore_index, class_weight=class_weight, weight=weight)
    return divide(each.sum(), normalizer)
