# SPDX-License-Identifier: Apache-2.0
"""What a trial says: scores of each arm over seeds and images, with intervals, and differences between arms.

An interval is a percentile bootstrap over both: every replicate draws images with replacement, the same for all arms,
and seeds with replacement, for each arm its own. Two or three seeds say little about seeds; the range over them is
given too.

Shape letters: S seeds, N images, K classes, R replicates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from denseg.metrics import boundary_counts, continuity, scores_from_counts
from denseg.metrics.confusion import count_pairs

__all__ = ["SCORES", "Difference", "Estimate", "compare", "estimate", "image_statistics", "score_of", "stack"]

SCORES = ("miou", "boundary_iou", "continuity", "pieces", "holes", "merges")
"""Mean IoU, boundary IoU, share of objects intact; pieces, holes and merges per object."""

Values = NDArray[np.float64]
Statistics = dict[str, Values]


def image_statistics(labels: NDArray[Any], target: NDArray[Any], num_classes: int, ignore_index: int) -> Statistics:
    """Count one image; counts of images add up.

    Args:
        labels: ``(H, W)`` predicted.
        target: ``(H, W)`` true.
        num_classes: K.
        ignore_index: Label that carries no class.

    Returns:
        ``confusion`` (K, K), ``boundary`` (2, K), ``objects`` (5, K): true components, those intact, pieces, holes,
        merges.
    """
    counts = continuity(labels, target, num_classes, ignore_index, min_size=4)
    return {
        "confusion": count_pairs(labels, target, num_classes, ignore_index).astype(np.float64),
        "boundary": boundary_counts(labels, target, num_classes, ignore_index).astype(np.float64),
        "objects": np.stack(
            [counts.components, counts.intact, counts.pieces, counts.holes, counts.merges],
        ).astype(np.float64),
    }


def stack(runs: Sequence[Sequence[Mapping[str, Any]]]) -> Statistics:
    """Put the statistics of the images of several seeds into arrays.

    Args:
        runs: For each seed, for each image, what ``image_statistics`` gave.

    Returns:
        The same names, ``(S, N, …)``.
    """
    return {name: np.asarray([[image[name] for image in run] for run in runs]) for name in runs[0][0]}


def score_of(sums: Mapping[str, Values]) -> Values:
    """Turn summed counts into the scores.

    Args:
        sums: As ``image_statistics`` gives them, summed.

    Returns:
        One value per name of ``SCORES``; NaN where there is nothing to count.
    """
    shared, either = sums["boundary"]
    components, intact, pieces, holes, merges = sums["objects"]
    some = components > 0
    total = max(float(components.sum()), 1.0)
    return np.array(
        [
            scores_from_counts(sums["confusion"].astype(np.int64)).miou,
            np.mean(shared[either > 0] / either[either > 0]) if (either > 0).any() else np.nan,
            np.mean(intact[some] / components[some]) if some.any() else np.nan,
            pieces.sum() / total,
            holes.sum() / total,
            merges.sum() / total,
        ]
    )


@dataclass(frozen=True)
class Estimate:
    """Scores of one arm; arrays have one value per name of ``SCORES``.

    Attributes:
        value: Over all seeds and images.
        low: Low end of the 95 % interval.
        high: High end.
        seeds: ``(S, …)``, of each seed alone.
    """

    value: Values
    low: Values
    high: Values
    seeds: Values


@dataclass(frozen=True)
class Difference:
    """Scores of one arm less those of another.

    Attributes:
        value: Over all seeds and images.
        low: Low end of the 95 % interval.
        high: High end.
    """

    value: Values
    low: Values
    high: Values


def estimate(statistics: Statistics, *, replicates: int = 400) -> Estimate:
    """Score an arm.

    Args:
        statistics: ``(S, N, …)``.
        replicates: Of the bootstrap.

    Returns:
        The scores with their intervals.
    """
    seeds = [
        score_of({name: value[s].sum(axis=0) for name, value in statistics.items()}) for s in range(_seeds(statistics))
    ]
    drawn = _draws(statistics, replicates, seed=1)
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    return Estimate(_whole(statistics), low, high, np.stack(seeds))


def compare(statistics: Statistics, baseline: Statistics, *, replicates: int = 400) -> Difference:
    """Compare an arm with another on the same images.

    Args:
        statistics: ``(S, N, …)`` of the arm.
        baseline: Those of the other.
        replicates: Of the bootstrap.

    Returns:
        The differences with their intervals.
    """
    drawn = _draws(statistics, replicates, seed=1) - _draws(baseline, replicates, seed=2)
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    return Difference(_whole(statistics) - _whole(baseline), low, high)


def _seeds(statistics: Statistics) -> int:
    return len(statistics["confusion"])


def _whole(statistics: Statistics) -> Values:
    return score_of({name: value.sum(axis=(0, 1)) for name, value in statistics.items()})


def _draws(statistics: Statistics, replicates: int, *, seed: int) -> Values:
    """Give ``(R, …)`` scores; the images drawn depend on the replicate alone, the seeds on ``seed`` too."""
    count, images = statistics["confusion"].shape[:2]
    scores = []
    for replicate in range(replicates):
        weights = np.random.default_rng((0, replicate)).multinomial(images, np.full(images, 1 / images))
        chosen = np.random.default_rng((seed, replicate)).integers(0, count, count)
        sums = {
            name: np.tensordot(weights.astype(np.float64), value[chosen].sum(axis=0), axes=1)
            for name, value in statistics.items()
        }
        scores.append(score_of(sums))
    return np.stack(scores)
