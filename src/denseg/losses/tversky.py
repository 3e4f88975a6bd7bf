# SPDX-License-Identifier: Apache-2.0
"""Tversky loss: Dice loss with its own price for false alarms and for misses.

Paper:
    S. S. M. Salehi, D. Erdogmus, A. Gholipour, "Tversky loss function for image segmentation using 3D fully
    convolutional deep networks", MLMI 2017. https://arxiv.org/abs/1706.05721 - Equation 3; the power is that of
    N. Abraham, N. M. Khan, "A Novel Focal Tversky Loss Function with Improved Attention U-Net for Lesion Segmentation",
    ISBI 2019. https://arxiv.org/abs/1810.07842 - Equation 4, as its exponent there is 1 / gamma.

Shape letters: B batch, K classes, H and W height and width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from denseg.errors import UsageError
from denseg.losses.dice import scale_by_share, soft_counts
from denseg.losses.pixels import pixel_mass

__all__ = ["TverskyLoss", "tversky_loss"]


class TverskyLoss(nn.Module):
    """See ``tversky_loss``.

    Attributes:
        reads: Which field of the model's output it takes.
    """

    reads: ClassVar[str] = "logits"

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_index: int = 255,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 1.0,
        smooth: float = 0.0,
    ) -> None:
        """Keep the options.

        Args:
            num_classes: K.
            ignore_index: Label that carries no class.
            alpha: Price of a false alarm.
            beta: Price of a miss.
            gamma: Power of each class's loss.
            smooth: Added to numerator and denominator, in pixels.

        Raises:
            UsageError: A number is out of range.
        """
        super().__init__()
        if min(alpha, beta, smooth) < 0 or alpha + beta == 0 or gamma <= 0:
            raise UsageError(
                "alpha, beta and smooth must be at least 0, alpha + beta and gamma above 0, "
                f"got {alpha}, {beta}, {smooth} and {gamma}"
            )
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.smooth = smooth

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        """See ``tversky_loss``."""
        return tversky_loss(
            logits,
            target,
            ignore_index=self.ignore_index,
            alpha=self.alpha,
            beta=self.beta,
            gamma=self.gamma,
            smooth=self.smooth,
            weight=weight,
            normalizer=normalizer,
        )

    def mass(self, target: Tensor, *, weight: Tensor | None = None) -> Tensor:
        """See ``pixel_mass``."""
        return pixel_mass(target, ignore_index=self.ignore_index, weight=weight)


def tversky_loss(  # noqa: PLR0913 - the options of the class
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 1.0,
    smooth: float = 0.0,
    weight: Tensor | None = None,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Mean over the classes in ``target`` of ``(1 - T) ** gamma``.

    ``T = (hit + smooth) / (hit + alpha * false alarm + beta * miss + smooth)``, each summed over the labelled pixels of
    the whole batch; with alpha and beta 1/2 it is Dice. A class without a labelled pixel takes no part.

    Args:
        logits: ``(B, K, H, W)``; softmax over K is taken here, in float32 at least.
        target: ``(B, H, W)`` int64 in 0..K-1 or ``ignore_index``.
        ignore_index: Label that carries no class.
        alpha: Price of a false alarm.
        beta: Price of a miss.
        gamma: Power of each class's loss.
        smooth: Added to numerator and denominator, in pixels.
        weight: ``(B, H, W)`` factor per pixel, at least 0.
        normalizer: Mass of the whole step where this batch is a part of it; scales the loss by the part's share.

    Returns:
        The loss, a scalar in 0..1; 0 with gradient 0 where no pixel is labelled.

    Raises:
        ShapeError: Shapes or dtypes do not fit.
    """
    hit, predicted, true = soft_counts(logits, target, ignore_index=ignore_index, weight=weight)  # each (K,)
    present = true > 0
    denominator = hit + alpha * (predicted - hit) + beta * (true - hit) + smooth
    index = (hit + smooth) / torch.where(present, denominator, 1)
    each = torch.where(present, 1 - index, 0)  # (K,)
    if gamma != 1:
        # Rounding may leave a perfect class below 0, and a power below 1 has no slope at 0.
        each = torch.where(present, each.clamp_min(1e-7), 0.5) ** gamma * present
    loss = each.sum() / present.sum().clamp(min=1)
    return scale_by_share(loss, target, ignore_index=ignore_index, weight=weight, normalizer=normalizer)
