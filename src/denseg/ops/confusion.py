# SPDX-License-Identifier: Apache-2.0
"""Counting which class was taken for which.

Shape letters: K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from denseg.errors import ShapeError

__all__ = ["confusion_counts"]


def confusion_counts(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int | None = None) -> Tensor:
    """Count pixels by true and by predicted class.

    Args:
        prediction: Predicted classes, any shape, any integer dtype, each in ``0..K-1``.
        target: True classes of the same shape, each in ``0..K-1`` or ``ignore_index``.
        num_classes: How many classes, K.
        ignore_index: Label that carries no class: those pixels are dropped, whatever was predicted there.

    Returns:
        ``(K, K)`` int64, rows are the true class, columns the predicted one.

    Raises:
        ShapeError: The shapes differ, or a label or a prediction is out of range.
    """
    if prediction.shape != target.shape:
        raise ShapeError(
            f"prediction and target must have one shape, got {tuple(prediction.shape)} and {tuple(target.shape)}"
        )
    # One table with a row more than there are classes: labels out of range fall into it and are told apart only when
    # it holds anything but ignored pixels, so that the common case is one pass of bincount.
    truth = target.reshape(-1).long()
    guess = prediction.reshape(-1).long()
    if ignore_index is not None:
        kept = truth != ignore_index
        truth, guess = truth[kept], guess[kept]
    if truth.numel() == 0:
        return torch.zeros((num_classes, num_classes), dtype=torch.int64, device=target.device)
    _check_range("target", truth, num_classes, ignore_index)
    _check_range("prediction", guess, num_classes, None)
    counts = torch.bincount(truth * num_classes + guess, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)  # (K*K,) -> (K, K)


def _check_range(name: str, labels: Tensor, num_classes: int, ignore_index: int | None) -> None:
    low, high = (int(value) for value in torch.aminmax(labels))
    if low < 0 or high >= num_classes:
        ignored = "" if ignore_index is None else f" or {ignore_index} (ignored)"
        raise ShapeError(f"{name} must hold classes 0..{num_classes - 1}{ignored}, got values from {low} to {high}")
