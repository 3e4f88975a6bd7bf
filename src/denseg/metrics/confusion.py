# SPDX-License-Identifier: Apache-2.0
"""Scores from one confusion matrix over a whole data set.

Definitions (fixed once for the project):
    Pixels whose label is ``ignore_index`` are dropped. Counts are summed over the data set first; then, per class,
    ``iou = true positive / union`` and ``accuracy = true positive / labels``. ``miou`` is the mean of ``iou`` over the
    classes with union > 0, ``mean_accuracy`` the mean of ``accuracy`` over the classes with labels,
    ``frequency_weighted_iou`` the mean of ``iou`` weighted by labels, ``pixel_accuracy`` the share of right pixels.
    J. Long et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, Section 5 (metrics).

Shape letters: K classes, N images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from denseg.errors import ShapeError, UsageError
from denseg.metrics.conventions import Convention, scores_by_convention
from denseg.ops.confusion import confusion_counts

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "ConfusionMatrix",
    "Scores",
    "dice_from_counts",
    "majority_baseline",
    "per_image_scores",
    "scores_from_counts",
]


@dataclass(frozen=True)
class Scores:
    """Scores of one confusion matrix; NaN where a ratio has nothing to count.

    Attributes:
        miou: Mean IoU over the classes with union > 0.
        iou: Per class; NaN for a class with union 0.
        pixel_accuracy: Share of labelled pixels that are right.
        mean_accuracy: Mean of ``accuracy`` over the classes with labels.
        frequency_weighted_iou: Mean IoU weighted by the number of labels.
        accuracy: Per class: the share of its labels that are right (recall); NaN for a class without labels.
        pixels: Labels per class.
        present: Whether the class has union > 0: the classes that ``miou`` is the mean of.
    """

    miou: float
    iou: tuple[float, ...]
    pixel_accuracy: float
    mean_accuracy: float
    frequency_weighted_iou: float
    accuracy: tuple[float, ...]
    pixels: tuple[int, ...]
    present: tuple[bool, ...]


class ConfusionMatrix:
    """Counts of (label, prediction) pairs, summed over images; mergeable.

    Attributes:
        num_classes: K.
        ignore_index: Label that carries no class.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        *,
        counts: NDArray[np.int64] | None = None,
        unknown: Literal["refuse", "drop"] = "refuse",
    ) -> None:
        """Start from nothing, or from counts.

        Args:
            num_classes: K.
            ignore_index: Label that carries no class.
            counts: ``(K, K)`` integers, rows are the truth, columns the prediction.
            unknown: What becomes of labels outside 0..K-1 besides ``ignore_index``: an error, or no part in the counts
                (as in FCN's evaluation).

        Raises:
            UsageError: ``num_classes`` is less than 1, or ``unknown`` is neither of the two.
            ShapeError: ``counts`` is not ``(K, K)``.
        """
        if unknown not in {"refuse", "drop"}:
            raise UsageError(f"unknown is 'refuse' or 'drop', got {unknown!r}")
        if num_classes < 1:
            raise UsageError(f"a confusion matrix needs at least 1 class, got {num_classes}")
        if counts is not None and np.shape(counts) != (num_classes, num_classes):
            raise ShapeError(f"counts must be {(num_classes, num_classes)}, got {np.shape(counts)}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self._drops = unknown == "drop"
        zeros = np.zeros((num_classes, num_classes), dtype=np.int64)
        self._counts: NDArray[np.int64] = zeros if counts is None else np.array(counts, dtype=np.int64)

    @property
    def counts(self) -> NDArray[np.int64]:
        """``(K, K)`` int64: rows are the truth, columns the prediction."""
        return self._counts

    def update(self, prediction: Tensor | NDArray[np.integer], target: Tensor | NDArray[np.integer]) -> ConfusionMatrix:
        """Count the pixels of one or more images.

        Args:
            prediction: Labels in 0..K-1, any shape, any integer dtype; where ``target`` is ignored, anything.
            target: Labels in 0..K-1 or ``ignore_index``, the same shape.

        Returns:
            This matrix.

        Raises:
            ShapeError: The shapes differ, or a dtype is not integer.
        """
        if self._drops:
            labels = torch.as_tensor(np.asarray(target) if not isinstance(target, Tensor) else target).long()
            known = (labels >= 0) & (labels < self.num_classes)
            target = torch.where(known, labels, self.ignore_index)
        self._counts += count_pairs(prediction, target, self.num_classes, self.ignore_index)
        return self

    def compute(self) -> Scores:
        """Compute all scores of the counts."""
        return scores_from_counts(self._counts)

    def compute_as(self, convention: Convention) -> dict[str, float]:
        """Compute the scores as another project does, to compare with what it prints.

        Args:
            convention: ``denseg``, ``mmseg``, ``fcn``, ``fcn_paper`` or ``labelled``, see ``metrics.conventions``.

        Returns:
            The scores by name.
        """
        return scores_by_convention(self._counts, convention)

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Merge two matrices into a new one.

        Args:
            other: Of the same classes.

        Returns:
            A matrix with the sum of the counts.

        Raises:
            UsageError: They have another number of classes or another ``ignore_index``.
        """
        if (self.num_classes, self.ignore_index) != (other.num_classes, other.ignore_index):
            raise UsageError(
                "confusion matrices to merge must agree in classes and ignore_index, got "
                f"{self.num_classes} and {other.num_classes} classes, "
                f"ignore_index {self.ignore_index} and {other.ignore_index}"
            )
        unknown: Literal["refuse", "drop"] = "drop" if self._drops else "refuse"
        return ConfusionMatrix(
            self.num_classes, self.ignore_index, counts=self._counts + other._counts, unknown=unknown
        )


def count_pairs(
    prediction: Tensor | NDArray[np.integer], target: Tensor | NDArray[np.integer], num_classes: int, ignore_index: int
) -> NDArray[np.int64]:
    """Count (label, prediction) pairs of tensors or arrays.

    Args:
        prediction: Labels, any shape.
        target: Labels, the same shape.
        num_classes: K.
        ignore_index: Label that carries no class.

    Returns:
        ``(K, K)``: rows are the truth.
    """
    tensors = [
        value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))
        for value in (prediction, target)
    ]
    return confusion_counts(tensors[0], tensors[1], num_classes, ignore_index).cpu().numpy()


def scores_from_counts(counts: NDArray[np.integer]) -> Scores:
    """Compute all scores of a confusion matrix.

    Args:
        counts: ``(K, K)``, rows are the truth.

    Returns:
        The scores.
    """
    right = np.diag(counts).astype(np.float64)
    labels = counts.sum(axis=1)
    union = labels + counts.sum(axis=0) - np.diag(counts)
    total = labels.sum()
    iou = _ratio(right, union)
    accuracy = _ratio(right, labels)
    present = union > 0
    return Scores(
        miou=_mean(iou[present]),
        iou=tuple(iou.tolist()),
        pixel_accuracy=float(right.sum() / total) if total else float("nan"),
        mean_accuracy=_mean(accuracy[labels > 0]),
        frequency_weighted_iou=float((labels[labels > 0] * iou[labels > 0]).sum() / total) if total else float("nan"),
        accuracy=tuple(accuracy.tolist()),
        pixels=tuple(labels.tolist()),
        present=tuple(present.tolist()),
    )


def per_image_scores(per_image_counts: ArrayLike) -> tuple[Scores, ...]:
    """Score every image by itself, to find the worst; their mean is not the data set's score.

    Args:
        per_image_counts: ``(N, K, K)`` confusion matrices, rows are the truth.

    Returns:
        Scores of each image; ``miou`` over the classes that the image or its prediction has.
    """
    return tuple(scores_from_counts(counts) for counts in np.asarray(per_image_counts))


def dice_from_counts(counts: NDArray[np.integer]) -> tuple[float, ...]:
    """Compute the Dice coefficient (F1) of every class, ``2 * IoU / (1 + IoU)``.

    Args:
        counts: ``(K, K)``, rows are the truth.

    Returns:
        Per class; NaN for a class that is neither in the truth nor predicted.
    """
    right = np.diag(counts).astype(np.float64)
    return tuple(_ratio(2 * right, counts.sum(axis=0) + counts.sum(axis=1)).tolist())


def majority_baseline(train_counts: NDArray[np.integer], counts: NDArray[np.integer]) -> Scores:
    """Score the answer "always the most frequent class of the training split".

    Args:
        train_counts: ``(K,)`` labelled pixels per class of the training split.
        counts: ``(K, K)`` confusion matrix of the evaluated split, or its ``(K,)`` labelled pixels per class.

    Returns:
        The scores of that answer.
    """
    labels = np.asarray(counts).sum(axis=1) if np.ndim(counts) == 2 else np.asarray(counts)
    answer = np.zeros((labels.size, labels.size), dtype=np.int64)
    answer[:, int(np.argmax(train_counts))] = labels
    return scores_from_counts(answer)


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.integer]) -> NDArray[np.float64]:
    ratio = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else float("nan")
