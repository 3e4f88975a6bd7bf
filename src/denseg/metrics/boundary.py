# SPDX-License-Identifier: Apache-2.0
"""How good a segmentation is near the borders of its regions.

Definitions:
    ``boundary_iou``: B. Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR
    2021. Of each class mask only the pixels at most d from its contour are kept (a square of 2d+1 pixels around them
    leaves the mask or the image), d = ratio times the image's diagonal; then IoU per class.
    ``trimap``: P. Kohli et al., "Robust Higher Order Potentials for Enforcing Label Consistency", IJCV 2009, as in the
    DeepLab papers: scores of the pixels at most w from a border.
    ``boundary_f_score``: G. Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC 2013:
    precision and recall of contour pixels, matched within a distance.
    ``hausdorff``: the 95th percentile of the distances from one contour to the other, the larger of both directions.
    Counts are summed over images, then ratios are taken per class, then their mean over classes that have any.
    Pixels without label never count, and take the predicted class, so that they make no border.

Shape letters: B batch, K classes, H and W height and width, S widths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from scipy import ndimage

from denseg.errors import UsageError
from denseg.metrics.arrays import label_maps
from denseg.metrics.confusion import Scores, count_pairs, scores_from_counts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from denseg.metrics.arrays import Labels

__all__ = [
    "ClassScores",
    "boundary_counts",
    "boundary_f_score",
    "boundary_iou",
    "hausdorff",
    "trimap",
    "trimap_counts",
]


class ClassScores(NamedTuple):
    """A score per class and its mean.

    Attributes:
        mean: Over the classes that have a value.
        each: Per class; NaN where there is nothing to score.
    """

    mean: float
    each: tuple[float, ...]


def boundary_iou(
    prediction: Labels, target: Labels, num_classes: int, ignore_index: int = 255, *, ratio: float = 0.02
) -> ClassScores:
    """Compute the IoU of the bands inside the contours.

    Args:
        prediction: ``(H, W)`` or ``(B, H, W)``, in 0..K-1.
        target: The same shape, in 0..K-1 or ``ignore_index``.
        num_classes: K.
        ignore_index: Label that carries no class.
        ratio: Width of the band over the image's diagonal; 0.02 in the paper, 0.005 for Cityscapes.

    Returns:
        Boundary IoU per class and its mean over the classes with a union.
    """
    shared, union = boundary_counts(prediction, target, num_classes, ignore_index, ratio=ratio)
    return _class_scores(shared, union)


def boundary_counts(
    prediction: Labels, target: Labels, num_classes: int, ignore_index: int = 255, *, ratio: float = 0.02
) -> NDArray[np.int64]:
    """Count what ``boundary_iou`` divides; counts of images add up.

    Args:
        prediction: ``(H, W)`` or ``(B, H, W)``, in 0..K-1.
        target: The same shape, in 0..K-1 or ``ignore_index``.
        num_classes: K.
        ignore_index: Label that carries no class.
        ratio: Width of the band over the image's diagonal.

    Returns:
        ``(2, K)``: pixels in both bands of a class, pixels in either.

    Raises:
        UsageError: ``ratio`` is not positive.
    """
    if ratio <= 0:
        raise UsageError(f"ratio must be positive, got {ratio}")
    counts = np.zeros((2, num_classes), dtype=np.int64)
    for guess, truth, valid in zip(*label_maps(prediction, target, num_classes, ignore_index), strict=True):
        width = max(1, round(ratio * math.hypot(*guess.shape)))
        guess_band, truth_band = _band(guess, width) & valid, _band(truth, width) & valid
        shared = _histogram(guess[guess_band & truth_band & (guess == truth)], num_classes)
        either = _histogram(guess[guess_band], num_classes) + _histogram(truth[truth_band], num_classes) - shared
        counts += np.stack([shared, either])
    return counts


def trimap(
    prediction: Labels,
    target: Labels,
    num_classes: int,
    ignore_index: int = 255,
    *,
    widths: Sequence[int] = (1, 2, 5, 10, 20, 40),
    around: Literal["labels", "void"] = "labels",
) -> tuple[Scores, ...]:
    """Score the pixels near borders.

    Args:
        prediction: ``(H, W)`` or ``(B, H, W)``, in 0..K-1.
        target: The same shape, in 0..K-1 or ``ignore_index``.
        num_classes: K.
        ignore_index: Label that carries no class.
        widths: Largest distances from the border, in pixels, increasing.
        around: ``labels``: the border is where the target's class changes; ``void``: it is the ignored pixels, as
            PASCAL VOC marks it.

    Returns:
        Scores of each width.
    """
    counts = trimap_counts(prediction, target, num_classes, ignore_index, widths=widths, around=around)
    return tuple(scores_from_counts(each) for each in counts)


def trimap_counts(
    prediction: Labels,
    target: Labels,
    num_classes: int,
    ignore_index: int = 255,
    *,
    widths: Sequence[int] = (1, 2, 5, 10, 20, 40),
    around: Literal["labels", "void"] = "labels",
) -> NDArray[np.int64]:
    """Count the confusions near borders; counts of images add up.

    Args:
        prediction: ``(H, W)`` or ``(B, H, W)``, in 0..K-1.
        target: The same shape, in 0..K-1 or ``ignore_index``.
        num_classes: K.
        ignore_index: Label that carries no class.
        widths: Largest distances from the border, in pixels: 1 is the pixels that touch it.
        around: See ``trimap``.

    Returns:
        ``(S, K, K)``, rows are the truth.

    Raises:
        UsageError: ``around`` is neither of the two.
    """
    if around not in {"labels", "void"}:
        raise UsageError(f"around must be 'labels' or 'void', got {around!r}")
    counts = np.zeros((len(widths), num_classes, num_classes), dtype=np.int64)
    for guess, truth, valid in zip(*label_maps(prediction, target, num_classes, ignore_index), strict=True):
        labels = np.where(valid, truth, -1)
        distance = _distance_to(~valid) if around == "void" else _distance_to_other(labels)
        for index, width in enumerate(widths):
            near = valid & (distance <= width)
            counts[index] += count_pairs(guess[near], truth[near], num_classes, ignore_index)
    return counts


def boundary_f_score(
    prediction: Labels, target: Labels, num_classes: int, ignore_index: int = 255, *, tolerance: float = 0.0075
) -> ClassScores:
    """Compute F1 of contour pixels, matched where a contour pixel of the same class is near.

    A contour pixel belongs to the class and touches (above, below, left or right) another class; the image's edge is no
    contour.

    Args:
        prediction: ``(H, W)`` or ``(B, H, W)``, in 0..K-1.
        target: The same shape, in 0..K-1 or ``ignore_index``.
        num_classes: K.
        ignore_index: Label that carries no class.
        tolerance: Largest distance of a match over the image's diagonal; 0.0075 in the paper.

    Returns:
        F1 per class and its mean over the classes with a contour.
    """
    counts = np.zeros((4, num_classes), dtype=np.int64)  # matched and all predicted, matched and all true
    for guess, truth, valid in zip(*label_maps(prediction, target, num_classes, ignore_index), strict=True):
        reach = tolerance * math.hypot(*guess.shape)
        guess_contour, truth_contour = _contour(guess), _contour(truth)
        for k in np.union1d(guess, truth)[np.union1d(guess, truth) >= 0]:
            a, b = guess_contour & (guess == k), truth_contour & (truth == k)
            counted_a, counted_b = a & valid, b & valid
            counts[:, k] += [
                np.count_nonzero(_distance_to(b)[counted_a] <= reach),
                np.count_nonzero(counted_a),
                np.count_nonzero(_distance_to(a)[counted_b] <= reach),
                np.count_nonzero(counted_b),
            ]
    precision, recall = (counts[i] / np.maximum(counts[i + 1], 1) for i in (0, 2))
    has = counts[1] + counts[3] > 0
    f_score = np.where(has, 2 * precision * recall / np.where(precision + recall > 0, precision + recall, 1), np.nan)
    return ClassScores(_mean(f_score), tuple(f_score.tolist()))


def hausdorff(
    prediction: Labels, target: Labels, num_classes: int, ignore_index: int = 255, *, percentile: float = 95.0
) -> ClassScores:
    """Compute the distance between contours, in pixels, averaged over the images where both maps have the class.

    Args:
        prediction: ``(H, W)`` or ``(B, H, W)``, in 0..K-1.
        target: The same shape, in 0..K-1 or ``ignore_index``.
        num_classes: K.
        ignore_index: Label that carries no class.
        percentile: 95 leaves the farthest twentieth out; 100 is the Hausdorff distance.

    Returns:
        Distance per class and its mean.
    """
    sums, images = np.zeros(num_classes), np.zeros(num_classes, dtype=np.int64)
    for guess, truth, valid in zip(*label_maps(prediction, target, num_classes, ignore_index), strict=True):
        for k in range(num_classes):
            a, b = (_surface((labels == k) & valid) for labels in (guess, truth))
            if a.any() and b.any():
                both = (np.percentile(_distance_to(b)[a], percentile), np.percentile(_distance_to(a)[b], percentile))
                sums[k] += max(both)
                images[k] += 1
    each = np.where(images > 0, sums / np.maximum(images, 1), np.nan)
    return ClassScores(_mean(each), tuple(each.tolist()))


def _band(labels: NDArray[np.int64], width: int) -> NDArray[np.bool_]:
    """Mark pixels with another class, or the outside of the image, at most ``width`` steps away, also diagonal ones."""
    size = 2 * width + 1
    low = ndimage.minimum_filter(labels, size, mode="constant", cval=-2)
    band: NDArray[np.bool_] = low != ndimage.maximum_filter(labels, size, mode="constant", cval=-2)
    return band


def _contour(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    contour = np.zeros(labels.shape, dtype=bool)
    rows, columns = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    contour[1:] |= rows
    contour[:-1] |= rows
    contour[:, 1:] |= columns
    contour[:, :-1] |= columns
    return contour


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark pixels of a mask that touch its outside, or the image's edge."""
    surface: NDArray[np.bool_] = mask & ~ndimage.binary_erosion(mask)
    return surface


def _distance_to(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Give each pixel's Euclidean distance to the nearest marked one; infinity where none is."""
    if not mask.any():
        return np.full(mask.shape, np.inf)
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(~mask)
    return distance


def _distance_to_other(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give each labelled pixel's distance to the nearest pixel of another class; unlabelled ones (-1) are no class."""
    distance = np.full(labels.shape, np.inf)
    for k in np.unique(labels[labels >= 0]):
        own = labels == k
        distance[own] = _distance_to((labels >= 0) & ~own)[own]
    return distance


def _histogram(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    return np.bincount(labels, minlength=num_classes).astype(np.int64)


def _class_scores(numerator: NDArray[np.int64], denominator: NDArray[np.int64]) -> ClassScores:
    each = np.where(denominator > 0, numerator / np.maximum(denominator, 1), np.nan)
    return ClassScores(_mean(each), tuple(each.tolist()))


def _mean(each: NDArray[np.float64]) -> float:
    kept = each[~np.isnan(each)]
    return float(kept.mean()) if kept.size else float("nan")
