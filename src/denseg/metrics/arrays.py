# SPDX-License-Identifier: Apache-2.0
"""Label maps of any kind, checked and brought to one form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from denseg.errors import ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Labels = Tensor | NDArray[np.integer] | NDArray[np.bool_]

__all__ = ["label_maps", "label_pair"]


def label_pair(prediction: Labels, target: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bring two label maps to ``(B, H, W)`` int64.

    Args:
        prediction: ``(H, W)`` or ``(B, H, W)`` integers.
        target: The same shape.

    Returns:
        Both, ``(B, H, W)``.

    Raises:
        ShapeError: The shapes differ, are not those of images, or the values are not integers.
    """
    arrays = []
    for name, labels in (("prediction", prediction), ("target", target)):
        array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
        if array.dtype.kind not in "biu" or array.ndim not in {2, 3}:
            raise ShapeError(f"{name} must be integer (H, W) or (B, H, W), got {array.dtype} {array.shape}")
        arrays.append(array.astype(np.int64))
    first, second = arrays
    if first.shape != second.shape:
        raise ShapeError(f"prediction and target must have one shape, got {first.shape} and {second.shape}")
    return (first, second) if first.ndim == 3 else (first[None], second[None])


def label_maps(
    prediction: Labels, target: Labels, num_classes: int, ignore_index: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Bring class maps to ``(B, H, W)`` int64, unlabelled pixels filled with the prediction.

    A pixel without label must neither count nor make a border that is not there: it takes the predicted class in both
    maps, and is marked as not counting.

    Args:
        prediction: ``(H, W)`` or ``(B, H, W)``, in 0..K-1; anything where ``target`` is ignored.
        target: The same shape, in 0..K-1 or ``ignore_index``.
        num_classes: K.
        ignore_index: Label that carries no class.

    Returns:
        Prediction, filled target, and which pixels count.

    Raises:
        ShapeError: Shapes or values do not fit.
    """
    guess, truth = label_pair(prediction, target)
    valid = truth != ignore_index
    for name, labels in (("prediction", guess), ("target", truth)):
        wrong = labels[valid & ((labels < 0) | (labels >= num_classes))]
        if wrong.size:
            raise ShapeError(f"{name} must hold classes 0..{num_classes - 1}, got {wrong[0]}")
    guess = np.where((guess < 0) | (guess >= num_classes), -1, guess)  # possible under ignored pixels only
    return guess, np.where(valid, truth, guess), valid
