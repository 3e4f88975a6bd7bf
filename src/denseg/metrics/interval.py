# SPDX-License-Identifier: Apache-2.0
"""Confidence intervals by resampling images.

Definition:
    Percentile bootstrap (B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7, 1979):
    images (or whole groups of them, where the images of a group are not independent) are drawn with replacement, their
    confusion matrices are summed, and the score is computed anew. The class set is that of the full data in every
    replicate: a class that a replicate happens to lack (union 0) counts with its value on the full data.

Shape letters: N images, K classes, G groups, R replicates.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from denseg.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Score", "bootstrap_interval", "bootstrap_scores"]

Score = Literal["miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou"]


def bootstrap_interval(
    per_image_counts: ArrayLike,
    seed: int = 0,
    *,
    level: float = 0.95,
    replicates: int = 1000,
    score: Score = "miou",
    groups: Sequence[Hashable] | None = None,
) -> tuple[float, float]:
    """Give the percentile bootstrap interval of a score.

    Args:
        per_image_counts: ``(N, K, K)`` confusion matrices, one per image, rows are the truth.
        seed: Of the draws; the same seed gives the same interval.
        level: Probability that the interval is meant to cover, between 0 and 1.
        replicates: Number of draws, R.
        score: Which score.
        groups: One value per image; images of equal value are drawn together (video, patient, tile of one picture).

    Returns:
        Low and high end; both NaN where no pixel is labelled. One group alone cannot vary: both ends are its score.

    Raises:
        UsageError: No image, or an option out of range.
    """
    if not 0 < level < 1 or replicates < 1:
        raise UsageError(f"level must lie between 0 and 1 and replicates be at least 1, got {level} and {replicates}")
    scores = bootstrap_scores(per_image_counts, seed, replicates=replicates, score=score, groups=groups)
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_scores(
    per_image_counts: ArrayLike,
    seed: int = 0,
    *,
    replicates: int = 1000,
    score: Score = "miou",
    groups: Sequence[Hashable] | None = None,
) -> NDArray[np.float64]:
    """Give the score of every bootstrap replicate.

    Args:
        per_image_counts: ``(N, K, K)`` confusion matrices.
        seed: Of the draws.
        replicates: Number of draws, R.
        score: Which score.
        groups: One value per image.

    Returns:
        ``(R,)``.

    Raises:
        UsageError: No image, or an option out of range.
    """
    counts = np.asarray(per_image_counts)
    if counts.ndim != 3 or counts.shape[0] < 1 or counts.shape[1] != counts.shape[2]:
        raise UsageError(f"per-image counts must be (N, K, K) with at least one image, got {counts.shape}")
    if groups is not None and len(groups) != len(counts):
        raise UsageError(f"groups needs one value per image, {len(counts)}; got {len(groups)}")
    # Scores need the diagonal and the two margins only: (N, 3, K) instead of (N, K, K).
    sums = np.stack([np.diagonal(counts, axis1=1, axis2=2), counts.sum(axis=2), counts.sum(axis=1)], axis=1).astype(
        np.float64
    )
    if groups is not None:
        order = {value: index for index, value in enumerate(dict.fromkeys(groups))}
        grouped = np.zeros((len(order), *sums.shape[1:]))
        np.add.at(grouped, [order[value] for value in groups], sums)
        sums = grouped  # (G, 3, K)
    full = sums.sum(axis=0)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=replicates)  # (R, G)
    sampled = (draws.astype(np.float64) @ sums.reshape(len(sums), -1)).reshape(replicates, *full.shape)  # (R, 3, K)
    return _scores(sampled, full, score)


def _scores(sampled: NDArray[np.float64], full: NDArray[np.float64], score: Score) -> NDArray[np.float64]:
    """Compute one score per replicate from ``(R, 3, K)``: right pixels, labels, predictions."""
    right, labels, predicted = sampled[:, 0], sampled[:, 1], sampled[:, 2]  # each (R, K)
    if score == "pixel_accuracy":
        return _mean(_ratio(right.sum(axis=1, keepdims=True), labels.sum(axis=1, keepdims=True), full[:2].sum(axis=1)))
    if score == "mean_accuracy":
        return _mean(_ratio(right, labels, full[:2]))
    union = labels + predicted - right
    iou = _ratio(right, union, np.stack([full[0], full[1] + full[2] - full[0]]))
    if score == "miou":
        return _mean(iou)
    if score != "frequency_weighted_iou":
        raise UsageError(f"score must be miou, pixel_accuracy, mean_accuracy or frequency_weighted_iou, got {score!r}")
    total = labels.sum(axis=1)
    weighted: NDArray[np.float64] = np.nansum(labels * iou, axis=1) / np.where(total > 0, total, np.nan)
    return weighted


def _ratio(
    numerator: NDArray[np.float64], denominator: NDArray[np.float64], full: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Divide; where a replicate has nothing to divide by, take the full data's ratio (NaN where that is undefined)."""
    ratio = np.full(full.shape[-1:] if full.ndim > 1 else (1,), np.nan)
    np.divide(full[0], full[1], out=ratio, where=full[1] > 0)
    ratio = np.broadcast_to(ratio, numerator.shape).copy()
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio


def _mean(ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over the classes that the full data has: the columns that are not NaN."""
    kept = ~np.isnan(ratio).any(axis=0)
    mean: NDArray[np.float64] = ratio[:, kept].mean(axis=1) if kept.any() else np.full(len(ratio), np.nan)
    return mean
