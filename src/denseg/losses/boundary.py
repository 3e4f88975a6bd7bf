# SPDX-License-Identifier: Apache-2.0
"""Boundary loss: wrong probability costs its distance from the true border.

Paper:
    H. Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL 2019 and Medical Image Analysis 67
    (2021). https://arxiv.org/abs/1812.07032 - Equations 4 and 5.
Reference code:
    https://github.com/LIVIAETS/boundary-loss (not copied).
Departures from the paper:
    The constant of Equation 4, which Equation 5 drops, is kept, so that a perfect answer costs 0; gradients are the
    same. Distances are in pixels to the middle of the nearest pixel of the other side. Meant beside a region loss, with
    a weight of about 0.01.
Cost:
    One distance transform per class and image, on the CPU: about 10 ms each at 512x512.

Shape letters: B batch, K classes, H and W height and width.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from denseg.losses.pixels import check_pixels, divide, pixel_mass, single

__all__ = ["BoundaryLoss", "boundary_loss", "signed_distances"]


class BoundaryLoss(nn.Module):
    """See ``boundary_loss``.

    Attributes:
        reads: Which field of the model's output it takes.
    """

    reads: ClassVar[str] = "logits"

    def __init__(self, num_classes: int, *, ignore_index: int = 255) -> None:
        """Keep the options.

        Args:
            num_classes: K.
            ignore_index: Label that carries no class.
        """
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        """See ``boundary_loss``."""
        return boundary_loss(logits, target, ignore_index=self.ignore_index, weight=weight, normalizer=normalizer)

    def mass(self, target: Tensor, *, weight: Tensor | None = None) -> Tensor:
        """See ``pixel_mass``."""
        return pixel_mass(target, ignore_index=self.ignore_index, weight=weight)


def boundary_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    weight: Tensor | None = None,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Mean over labelled pixels of the sum over classes of ``signed distance * (probability - truth)``.

    Args:
        logits: ``(B, K, H, W)``; softmax over K is taken here, in float32 at least.
        target: ``(B, H, W)`` int64 in 0..K-1 or ``ignore_index``.
        ignore_index: Label that carries no class.
        weight: ``(B, H, W)`` factor per pixel, at least 0.
        normalizer: What the weighted sum is divided by; the sum of the weights of these pixels where not given.

    Returns:
        The loss, a scalar, at least 0, in pixels; 0 with gradient 0 where no pixel is labelled.

    Raises:
        ShapeError: Shapes or dtypes do not fit.
    """
    check_pixels(logits, target, weight)
    scores = single(logits)
    distances = signed_distances(target, scores.shape[1]).to(scores)  # (B, K, H, W)
    valid = target != ignore_index
    truth = torch.nn.functional.one_hot(torch.where(valid, target, 0), scores.shape[1]).movedim(-1, 1)
    each = (distances * (scores.softmax(dim=1) - truth)).sum(dim=1)  # (B, H, W)
    factor = valid.to(each.dtype) if weight is None else valid * weight.to(each.dtype)
    if normalizer is None:
        normalizer = pixel_mass(target, ignore_index=ignore_index, weight=weight)
    return divide(torch.where(factor > 0, each * factor, 0).sum(), normalizer)


def signed_distances(target: Tensor, num_classes: int) -> Tensor:
    """Give each pixel's distance to the nearest pixel on the other side of each class's border.

    Args:
        target: ``(B, H, W)`` int64; a label outside 0..K-1 is of no class.
        num_classes: K.

    Returns:
        ``(B, K, H, W)`` float32 on the CPU: positive outside the class, negative inside; 0 for a class that fills the
        image or is not in it.
    """
    labels = target.cpu().numpy()
    distances = np.zeros((labels.shape[0], num_classes, *labels.shape[1:]), dtype=np.float32)
    for image, signed in zip(labels, distances, strict=True):
        for k in np.unique(image):
            inside = image == k
            if 0 <= k < num_classes and not inside.all():
                signed[k] = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
    return torch.from_numpy(distances)
