# SPDX-License-Identifier: Apache-2.0
"""The same confusion matrix, scored as other projects score it: to compare with the numbers that they print.

Definitions:
    ``denseg``: means over the classes with a union (IoU) or with labels (accuracy), see ``metrics.confusion``.
    ``mmseg``: MMSegmentation's ``IoUMetric``: the same means, in percent and rounded to two digits; besides, the means
    of Dice, precision, recall and F-score, each over the classes where it is defined.
    ``fcn``: ``score.py`` of J. Long et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015: the
    same means as ours; labels outside 0..K-1 are dropped there, see ``ConfusionMatrix(unknown="drop")``.
    ``fcn_paper``: Section 5 of that paper as it is printed: sums over classes divided by K, so that a class that is
    neither in the truth nor predicted counts as 0. PSPNet's and CSAIL's evaluation agree with it in mean IoU.
    ``labelled``: mean IoU over the classes that have labels, whatever is predicted besides.

Shape letters: K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from denseg.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Convention", "scores_by_convention"]

Convention = Literal["denseg", "mmseg", "fcn", "fcn_paper", "labelled"]


def scores_by_convention(counts: ArrayLike, convention: Convention = "denseg") -> dict[str, float]:
    """Score a confusion matrix as a project or paper does, under the names that it prints.

    Args:
        counts: ``(K, K)``, rows are the truth.
        convention: Whose.

    Returns:
        ``miou``, ``pixel_accuracy``, ``mean_accuracy``, ``frequency_weighted_iou`` in 0..1; for ``mmseg`` ``aAcc``,
        ``mIoU``, ``mAcc``, ``mDice``, ``mPrecision``, ``mRecall``, ``mFscore`` in percent. NaN where nothing counts.

    Raises:
        UsageError: There is no such convention, or the counts are not square.
    """
    if convention not in get_args(Convention):
        raise UsageError(f"a convention is one of {', '.join(get_args(Convention))}; got {convention!r}")
    table = np.asarray(counts)
    if table.ndim != 2 or table.shape[0] != table.shape[1]:
        raise UsageError(f"counts must be (K, K), got {table.shape}")
    right = np.diag(table).astype(np.float64)
    labels, predicted = table.sum(axis=1).astype(np.float64), table.sum(axis=0).astype(np.float64)
    iou, accuracy = _ratio(right, labels + predicted - right), _ratio(right, labels)
    total = float(labels.sum())
    pixel_accuracy = float(right.sum()) / total if total else float("nan")
    if convention == "mmseg":
        precision = _ratio(right, predicted)
        f_score = _ratio(2 * precision * accuracy, precision + accuracy)
        values = {
            "aAcc": pixel_accuracy,
            "mIoU": _mean(iou),
            "mAcc": _mean(accuracy),
            "mDice": _mean(_ratio(2 * right, labels + predicted)),
            "mPrecision": _mean(precision),
            "mRecall": _mean(accuracy),
            "mFscore": _mean(f_score),
        }
        return {name: float(np.round(100 * value, 2)) for name, value in values.items()}
    weighted = float(np.nansum(labels * iou)) / total if total else float("nan")
    if convention == "fcn_paper":
        miou, mean_accuracy = float(np.nan_to_num(iou).mean()), float(np.nan_to_num(accuracy).mean())
    else:
        miou = _mean(iou[labels > 0]) if convention == "labelled" else _mean(iou)
        mean_accuracy = _mean(accuracy)
    return {
        "miou": miou,
        "pixel_accuracy": pixel_accuracy,
        "mean_accuracy": mean_accuracy,
        "frequency_weighted_iou": weighted,
    }


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    ratio = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio


def _mean(values: NDArray[np.float64]) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else float("nan")
