# SPDX-License-Identifier: Apache-2.0
"""Confidence intervals by resampling images.

Definition:
    Percentile bootstrap (B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7, 1979):
    images (or whole groups of them, where the images of a group are not independent) are drawn with replacement, their
    confusion matrices are summed, and the score is computed anew. The class set is that of the full data in every
    replicate: a class that a replicate happens to lack (union 0) counts with its value on the full data.
    Any score that is a ratio of sums over images (boundary IoU, continuity, recall by size) is resampled the same way,
    from its numerators and denominators: ``bootstrap_ratios``.
    Frames of a video resemble their neighbours: ``sequence_blocks`` makes groups of neighbours, which are drawn
    together (block bootstrap, E. Carlstein, Annals of Statistics 14, 1986).

Shape letters: N images, K classes, G groups, R replicates.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from denseg.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Score",
    "bootstrap_classes",
    "bootstrap_interval",
    "bootstrap_ratios",
    "bootstrap_scores",
    "sequence_blocks",
]

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
    sums = margins(counts)
    return _scores(draw_sums(sums, seed, replicates=replicates, groups=groups), sums.sum(axis=0), score)


def bootstrap_classes(
    per_image_counts: ArrayLike,
    seed: int = 0,
    *,
    level: float = 0.95,
    replicates: int = 1000,
    groups: Sequence[Hashable] | None = None,
) -> NDArray[np.float64]:
    """Give the percentile bootstrap interval of every class's IoU.

    Args:
        per_image_counts: ``(N, K, K)`` confusion matrices, one per image, rows are the truth.
        seed: Of the draws; with the seed of ``bootstrap_interval`` the draws are the same.
        level: Probability that an interval is meant to cover, between 0 and 1.
        replicates: Number of draws, R.
        groups: One value per image; images of equal value are drawn together.

    Returns:
        ``(K, 2)`` low and high ends; NaN for a class with union 0.

    Raises:
        UsageError: No image, or an option out of range.
    """
    if not 0 < level < 1 or replicates < 1:
        raise UsageError(f"level must lie between 0 and 1 and replicates be at least 1, got {level} and {replicates}")
    counts = np.asarray(per_image_counts)
    if counts.ndim != 3 or counts.shape[0] < 1 or counts.shape[1] != counts.shape[2]:
        raise UsageError(f"per-image counts must be (N, K, K) with at least one image, got {counts.shape}")
    sums = margins(counts)
    sampled, full = draw_sums(sums, seed, replicates=replicates, groups=groups), sums.sum(axis=0)
    right, labels, predicted = sampled[:, 0], sampled[:, 1], sampled[:, 2]
    iou = _ratio(right, labels + predicted - right, np.stack([full[0], full[1] + full[2] - full[0]]))  # (R, K)
    ends: NDArray[np.float64] = np.full((iou.shape[1], 2), np.nan)
    there = ~np.isnan(iou).any(axis=0)
    if there.any():
        ends[there] = np.quantile(iou[:, there], [(1 - level) / 2, (1 + level) / 2], axis=0).T
    return ends


def bootstrap_ratios(
    numerators: ArrayLike,
    denominators: ArrayLike,
    seed: int = 0,
    *,
    replicates: int = 1000,
    groups: Sequence[Hashable] | None = None,
) -> NDArray[np.float64]:
    """Resample a score that is the mean over classes of a ratio of sums over images.

    Args:
        numerators: ``(N, K)``, or ``(N,)`` for one class.
        denominators: The same shape; a class whose sum is 0 is left out of the mean.
        seed: Of the draws; the same draws as those of ``bootstrap_scores`` with this seed.
        replicates: Number of draws, R.
        groups: One value per image; images of equal value are drawn together.

    Returns:
        ``(R,)`` scores; NaN where no class has a denominator.

    Raises:
        UsageError: The shapes differ, or there is no image.
    """
    parts = [np.asarray(value, dtype=np.float64) for value in (numerators, denominators)]
    if parts[0].shape != parts[1].shape or parts[0].ndim not in {1, 2} or not len(parts[0]):
        raise UsageError(
            "numerators and denominators must both be (N, K) or (N,) with at least one image, got "
            f"{parts[0].shape} and {parts[1].shape}"
        )
    sums = np.stack([part.reshape(len(part), -1) for part in parts], axis=1)  # (N, 2, K)
    sampled = draw_sums(sums, seed, replicates=replicates, groups=groups)
    return _mean(_ratio(sampled[:, 0], sampled[:, 1], sums.sum(axis=0)))


def sequence_blocks(sequences: Sequence[Hashable], length: int) -> list[tuple[Hashable, int]]:
    """Make groups of neighbouring frames, for images that come from videos or stacks.

    Args:
        sequences: The sequence of each image, images in their order.
        length: Frames of a block; longer than the stretch over which frames resemble each other.

    Returns:
        One group per image, ``(sequence, number of the block)``.

    Raises:
        UsageError: ``length`` is less than 1.
    """
    if length < 1:
        raise UsageError(f"a block holds at least 1 image, got {length}")
    seen: dict[Hashable, int] = {}
    blocks = []
    for sequence in sequences:
        place = seen.get(sequence, 0)
        blocks.append((sequence, place // length))
        seen[sequence] = place + 1
    return blocks


def margins(counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """Reduce ``(N, K, K)`` matrices to what scores need: ``(N, 3, K)`` right pixels, labels, predictions."""
    parts = [np.diagonal(counts, axis1=1, axis2=2), counts.sum(axis=2), counts.sum(axis=1)]
    return np.stack(parts, axis=1).astype(np.float64)


def draw_sums(
    sums: NDArray[np.float64], seed: int, *, replicates: int, groups: Sequence[Hashable] | None
) -> NDArray[np.float64]:
    """Draw images, or groups of them, with replacement and sum what they counted.

    Args:
        sums: ``(N, …)`` counts of each image.
        seed: Of the draws.
        replicates: Number of draws, R.
        groups: One value per image; images of equal value are drawn together.

    Returns:
        ``(R, …)``.

    Raises:
        UsageError: ``groups`` has another length.
    """
    if groups is not None and len(groups) != len(sums):
        raise UsageError(f"groups needs one value per image, {len(sums)}; got {len(groups)}")
    if groups is not None:
        order = {value: index for index, value in enumerate(dict.fromkeys(groups))}
        grouped = np.zeros((len(order), *sums.shape[1:]))
        np.add.at(grouped, [order[value] for value in groups], sums)
        sums = grouped  # (G, …)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=replicates)  # (R, G)
    sampled = draws.astype(np.float64) @ sums.reshape(len(sums), -1)
    return sampled.reshape(replicates, *sums.shape[1:])


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
