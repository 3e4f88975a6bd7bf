# SPDX-License-Identifier: Apache-2.0
"""Online hard example mining: cross-entropy over the pixels that the model gets wrong, or hardly right.

Paper:
    A. Shrivastava, A. Gupta, R. Girshick, "Training Region-based Object Detectors with Online Hard Example Mining",
    CVPR 2016. https://arxiv.org/abs/1604.03540
Reference code:
    PSPNet, CCNet and MMSegmentation (not copied): pixels, in place of regions, below a probability of 0.7, at least
    100,000 of a batch.

Shape letters: B batch, K classes, H and W height and width, M labelled pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from denseg.errors import UsageError
from denseg.losses.cross_entropy import class_weights
from denseg.losses.dice import scale_by_share
from denseg.losses.pixels import check_pixels, divide, pixel_mass, single

__all__ = ["OHEMLoss", "ohem_loss"]


class OHEMLoss(nn.Module):
    """See ``ohem_loss``.

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
        threshold: float = 0.7,
        min_kept: int = 100_000,
        class_weight: Sequence[float] | None = None,
    ) -> None:
        """Keep the options.

        Args:
            num_classes: K.
            ignore_index: Label that carries no class.
            threshold: Pixels whose true class has a lower probability are kept.
            min_kept: So many of the hardest pixels of a batch are kept in any case.
            class_weight: One factor per class.

        Raises:
            UsageError: A number is out of range.
        """
        super().__init__()
        if not 0 <= threshold <= 1 or min_kept < 1:
            raise UsageError(f"threshold must be in 0..1 and min_kept at least 1, got {threshold} and {min_kept}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.threshold = threshold
        self.min_kept = min_kept
        self.register_buffer("class_weight", class_weights(class_weight, num_classes), persistent=False)

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        """See ``ohem_loss``."""
        return ohem_loss(
            logits,
            target,
            ignore_index=self.ignore_index,
            threshold=self.threshold,
            min_kept=self.min_kept,
            class_weight=self.class_weight,
            weight=weight,
            normalizer=normalizer,
        )

    def mass(self, target: Tensor, *, weight: Tensor | None = None) -> Tensor:
        """See ``pixel_mass``."""
        return pixel_mass(target, ignore_index=self.ignore_index, weight=weight)


def ohem_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    threshold: float = 0.7,
    min_kept: int = 100_000,
    class_weight: Tensor | None = None,
    weight: Tensor | None = None,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Weighted mean of the cross-entropy over the hard pixels of the batch.

    Args:
        logits: ``(B, K, H, W)``; computed in float32 at least.
        target: ``(B, H, W)`` int64 in 0..K-1 or ``ignore_index``.
        ignore_index: Label that carries no class.
        threshold: Pixels whose true class has a lower probability are kept.
        min_kept: So many of the hardest pixels of the batch are kept in any case.
        class_weight: ``(K,)`` factor per class.
        weight: ``(B, H, W)`` factor per pixel, at least 0; a pixel of weight 0 counts as not labelled.
        normalizer: Mass of the whole step where this batch is a part of it; scales the loss by the part's share.

    Returns:
        The loss, a scalar; 0 with gradient 0 where no pixel is labelled.

    Raises:
        ShapeError: Shapes or dtypes do not fit.
    """
    check_pixels(logits, target, weight)
    each = F.cross_entropy(single(logits), target, ignore_index=ignore_index, reduction="none")  # (B, H, W): -log p
    valid = target != ignore_index
    if weight is not None:
        valid = valid & (weight > 0)
    each = each[valid]  # (M,)
    price = each.detach()
    hard = (-price).exp() < threshold
    kept = min(min_kept, price.numel())
    if kept:
        hard = hard | (price >= price.topk(kept).values[-1])
    factor = hard.to(each.dtype)
    if class_weight is not None:
        factor = factor * class_weight.to(each)[target[valid]]
    if weight is not None:
        factor = factor * weight[valid].to(each)
    loss = divide((each * factor).sum(), factor.sum())
    return scale_by_share(loss, target, ignore_index=ignore_index, weight=weight, normalizer=normalizer)
