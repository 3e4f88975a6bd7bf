# SPDX-License-Identifier: Apache-2.0
"""Lovasz-softmax loss: the convex closure of one minus the IoU, per class.

Paper:
    M. Berman, A. Rannen Triki, M. B. Blaschko, "The Lovasz-Softmax loss: A tractable surrogate for the optimization of
    the intersection-over-union measure in neural networks", CVPR 2018. https://arxiv.org/abs/1705.08790 - Equation 11.
Reference code:
    https://github.com/bermanmaxim/LovaszSoftmax (not copied).
Departures from the paper:
    Pixels may have weights: areas are then weighted areas. Classes without a labelled pixel take no part, as in the
    authors' code (``present``).

Shape letters: B batch, K classes, H and W height and width, M labelled pixels.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from denseg.losses.dice import scale_by_share
from denseg.losses.pixels import check_pixels, pixel_mass, single

__all__ = ["LovaszLoss", "lovasz_loss"]


class LovaszLoss(nn.Module):
    """See ``lovasz_loss``.

    Attributes:
        reads: Which field of the model's output it takes.
    """

    reads: ClassVar[str] = "logits"

    def __init__(self, num_classes: int, *, ignore_index: int = 255, per_image: bool = False) -> None:
        """Keep the options.

        Args:
            num_classes: K.
            ignore_index: Label that carries no class.
            per_image: Mean of the losses of the images, in place of one loss over the pixels of all.
        """
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.per_image = per_image

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        """See ``lovasz_loss``."""
        return lovasz_loss(
            logits,
            target,
            ignore_index=self.ignore_index,
            per_image=self.per_image,
            weight=weight,
            normalizer=normalizer,
        )

    def mass(self, target: Tensor, *, weight: Tensor | None = None) -> Tensor:
        """See ``pixel_mass``."""
        return pixel_mass(target, ignore_index=self.ignore_index, weight=weight)


def lovasz_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    per_image: bool = False,
    weight: Tensor | None = None,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Mean over the classes in ``target`` of the Lovasz extension of one minus the IoU, at the errors ``|p - truth|``.

    Args:
        logits: ``(B, K, H, W)``; softmax over K is taken here, in float32 at least.
        target: ``(B, H, W)`` int64 in 0..K-1 or ``ignore_index``.
        ignore_index: Label that carries no class.
        per_image: Mean over the images that have labels, in place of one loss over the pixels of all.
        weight: ``(B, H, W)`` factor per pixel, at least 0.
        normalizer: Mass of the whole step where this batch is a part of it; scales the loss by the part's share.

    Returns:
        The loss, a scalar in 0..1; 0 with gradient 0 where no pixel is labelled.

    Raises:
        ShapeError: Shapes or dtypes do not fit.
    """
    check_pixels(logits, target, weight)
    probabilities = single(logits).softmax(dim=1).movedim(1, -1)  # (B, H, W, K)
    groups = range(len(target)) if per_image else [slice(None)]
    losses = []
    for group in groups:
        valid = target[group] != ignore_index
        factor = None if weight is None else weight[group][valid].to(probabilities)
        losses.append(_of_pixels(probabilities[group][valid], target[group][valid], factor))
    kept = [loss for loss in losses if loss is not None]
    loss = torch.stack(kept).mean() if kept else 0 * probabilities[:0].sum()
    return scale_by_share(loss, target, ignore_index=ignore_index, weight=weight, normalizer=normalizer)


def _of_pixels(probabilities: Tensor, labels: Tensor, factor: Tensor | None) -> Tensor | None:
    """Take the loss of ``(M, K)`` probabilities; ``None`` where no class has a pixel of positive weight."""
    losses = []
    for k in torch.bincount(labels).nonzero().flatten().tolist():
        truth = (labels == k).to(probabilities.dtype)  # (M,)
        area = truth if factor is None else truth * factor
        if float(area.sum()) == 0:
            continue
        error = (truth - probabilities[:, k]).abs()
        order = error.detach().argsort(descending=True)
        own = area[order]
        other = (1 - truth if factor is None else (1 - truth) * factor)[order]
        # IoU loss of the set of the first 1, 2, … pixels being wrong; its increments weigh the errors.
        jaccard = 1 - (own.sum() - own.cumsum(0)) / (own.sum() + other.cumsum(0))
        losses.append((error[order] * torch.diff(jaccard, prepend=jaccard.new_zeros(1))).sum())
    return torch.stack(losses).mean() if losses else None
