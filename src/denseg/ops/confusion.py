# SPDX-License-Identifier: Apache-2.0
"""Counting which class was taken for which, in one pass over the labels.

Shape letters: K classes, N pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from denseg.errors import ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["confusion_counts"]

_COMPILE_FROM = 1 << 16  # pixels; below, torch's two passes take less time than the compiler


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
        ShapeError: The shapes differ, a dtype is not integer, or a label or a prediction is out of range.
    """
    if prediction.shape != target.shape:
        raise ShapeError(
            f"prediction and target must have one shape, got {tuple(prediction.shape)} and {tuple(target.shape)}"
        )
    for name, labels in (("prediction", prediction), ("target", target)):
        if labels.is_floating_point() or labels.is_complex():
            raise ShapeError(f"{name} must hold integer labels, got {labels.dtype}; take the argmax of scores first")
    if target.device.type == "cpu" and target.numel() >= _COMPILE_FROM:
        counts = _count_compiled(prediction, target, num_classes, ignore_index)
        if counts is not None:
            return counts
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


def _count_compiled(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int | None) -> Tensor | None:
    """Count in one pass; ``None`` where a value is out of range, for the slower way to name it."""
    arrays = []
    for labels in (prediction, target):
        kept = labels.dtype in {torch.uint8, torch.uint16, torch.int64}
        arrays.append((labels if kept else labels.long()).detach().contiguous().reshape(-1).numpy())  # (N,)
    tables = np.zeros((4, num_classes**2), dtype=np.int64)
    dropped = num_classes if ignore_index is None else ignore_index
    wrong = _compiled()(arrays[0], arrays[1], num_classes, dropped, ignore_index is not None, tables)
    if wrong:
        return None
    return torch.from_numpy(tables.sum(axis=0)).reshape(num_classes, num_classes)  # (K*K,) -> (K, K)


@functools.cache
def _compiled() -> Callable[..., int]:
    import numba

    try:
        compiled: Callable[..., int] = numba.njit(cache=True, nogil=True)(_count)
    except RuntimeError:  # no folder to keep compiled code in
        compiled = numba.njit(nogil=True)(_count)
    return compiled


def _count(
    prediction: NDArray[Any],
    target: NDArray[Any],
    num_classes: int,
    ignore_index: int,
    drops: bool,
    tables: NDArray[np.int64],
) -> int:
    """Count into four tables in turn, so that equal neighbours need not wait for each other's sum."""
    wrong = 0
    classes = np.uint64(num_classes)
    for index in range(target.size):
        truth = np.int64(target[index])
        guess = np.uint64(prediction[index])  # a negative one becomes large
        if drops and truth == ignore_index:
            continue
        if np.uint64(truth) < classes and guess < classes:
            tables[index & 3, truth * num_classes + np.int64(guess)] += 1
        else:
            wrong += 1
    return wrong
