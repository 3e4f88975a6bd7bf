# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy over the pixels that carry a label.

Shape letters: B batch, K classes, H and W height and width of scores and labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseg.errors import UsageError
from denseg.losses.pixels import check_pixels, divide, pixel_mass, single

__all__ = ["CrossEntropyLoss", "cross_entropy_loss"]


class CrossEntropyLoss(nn.Module):
    """See ``cross_entropy_loss``.

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
        class_weight: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        """Keep the options.

        Args:
            num_classes: K.
            ignore_index: Label that carries no class.
            class_weight: One factor per class.
            label_smoothing: Share of the target spread evenly over all classes, 0 to 1.
        """
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weight", class_weights(class_weight, num_classes), persistent=False)

    def forward(
        self, logits: Tensor, target: Tensor, *, weight: Tensor | None = None, normalizer: Tensor | float | None = None
    ) -> Tensor:
        """See ``cross_entropy_loss``."""
        return cross_entropy_loss(
            logits,
            target,
            ignore_index=self.ignore_index,
            class_weight=self.class_weight,
            label_smoothing=self.label_smoothing,
            weight=weight,
            normalizer=normalizer,
        )

    def mass(self, target: Tensor, *, weight: Tensor | None = None) -> Tensor:
        """See ``pixel_mass``: the sum of the weights of the labelled pixels."""
        return pixel_mass(target, ignore_index=self.ignore_index, class_weight=self.class_weight, weight=weight)


def cross_entropy_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Mean over labelled pixels of ``-log softmax(logits)[target]``, weighted.

    Without ``weight`` this is ``torch.nn.functional.cross_entropy``, with ``class_weight`` too (its mean divides by the
    sum of the weights), except that a batch without a labelled pixel gives 0 with gradient 0 rather than NaN.

    Args:
        logits: ``(B, K, H, W)``; computed in float32 at least.
        target: ``(B, H, W)`` int64 in 0..K-1 or ``ignore_index``.
        ignore_index: Label that carries no class.
        class_weight: ``(K,)`` factor per class.
        label_smoothing: Share of the target spread evenly over all classes, 0 to 1.
        weight: ``(B, H, W)`` factor per pixel, at least 0.
        normalizer: What the weighted sum is divided by; the sum of the weights of these pixels where not given.

    Returns:
        The loss, a scalar.

    Raises:
        ShapeError: Shapes or dtypes do not fit.
    """
    check_pixels(logits, target, weight)
    logits = single(logits)
    if class_weight is not None:
        class_weight = class_weight.to(logits)
    if weight is None:
        total = F.cross_entropy(
            logits,
            target,
            weight=class_weight,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            reduction="sum",
        )
    else:
        each = F.cross_entropy(
            logits,
            target,
            weight=class_weight,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            reduction="none",
        )  # (B, H, W), 0 where ignored
        total = (each * weight).sum()
    if normalizer is None:
        normalizer = pixel_mass(target, ignore_index=ignore_index, class_weight=class_weight, weight=weight)
    return divide(total, normalizer)


def class_weights(class_weight: Sequence[float] | None, num_classes: int) -> Tensor | None:
    """Turn the option into a tensor.

    Args:
        class_weight: One factor per class, or ``None``.
        num_classes: K.

    Returns:
        ``(K,)`` float32, or ``None``.

    Raises:
        UsageError: There is not one factor per class.
    """
    if class_weight is None:
        return None
    values = torch.as_tensor(class_weight, dtype=torch.float32)
    if values.shape != (num_classes,):
        raise UsageError(f"class_weight needs one factor per class, {num_classes}; got {len(class_weight)}")
    return values
