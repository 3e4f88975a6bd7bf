# SPDX-License-Identifier: Apache-2.0
"""Whether one model is better than another, or only looks it on these images.

Definition:
    Paired bootstrap (B. Efron, R. J. Tibshirani, "An Introduction to the Bootstrap", 1993, Chapter 16; for two systems
    on one test set: P. Koehn, "Statistical Significance Tests for Machine Translation Evaluation", EMNLP 2004): the
    same images are drawn for both, and the difference of their scores is taken in each replicate. The p-value is
    two-sided: twice the smaller share of replicates on either side of 0, at least 2 / (R + 1).
    The smallest difference that these images can show is what a test of this level finds with a power of 0.8, from the
    spread of the replicates: (z of 1 - alpha / 2 + z of 0.8) times their standard deviation.
    Test over seeds: a difference of two ways to train varies with the images and with the seeds. The variance of the
    difference of the means over seeds is the bootstrap variance over images of that difference, plus the variances of
    the scores over seeds, each through its number of seeds (X. Bouthillier et al., "Accounting for Variance in Machine
    Learning Benchmarks", MLSys 2021, on why both count); the test is Student's, with the Welch-Satterthwaite degrees of
    freedom of that sum.

Shape letters: N images, K classes, R replicates, S seeds.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from denseg.errors import UsageError
from denseg.metrics.confusion import scores_from_counts
from denseg.metrics.interval import Score, bootstrap_ratios, bootstrap_scores

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Ratio = tuple[ArrayLike, ArrayLike]

__all__ = ["PairedTest", "adjust_p_values", "paired_bootstrap", "paired_ratios", "seeds_test"]

_POWER = 0.8
_LEAST_SEEDS = 3  # of fewer, the spread says next to nothing


class PairedTest(NamedTuple):
    """How the second model compares with the first.

    Attributes:
        difference: Score of the second less that of the first, on all images.
        low: Low end of the interval of the difference.
        high: High end.
        p_value: Two-sided; small where the difference is unlikely to be one of the choice of images.
        smallest_difference: What a true difference would have to be for these images to show it 8 times out of 10.
    """

    difference: float
    low: float
    high: float
    p_value: float
    smallest_difference: float


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    seed: int = 0,
    *,
    level: float = 0.95,
    replicates: int = 1000,
    score: Score = "miou",
    groups: Sequence[Hashable] | None = None,
) -> PairedTest:
    """Compare two models on the same images.

    Args:
        first: ``(N, K, K)`` confusion matrices of the first model, one per image, rows are the truth.
        second: The same of the second model, images in the same order.
        seed: Of the draws.
        level: Probability that the interval is meant to cover, between 0 and 1.
        replicates: Number of draws, R.
        score: Which score.
        groups: One value per image; images of equal value are drawn together.

    Returns:
        The comparison.

    Raises:
        UsageError: The images of the two differ, or an option is out of range.
    """
    counts = np.asarray(first), np.asarray(second)
    if counts[0].shape != counts[1].shape or not np.array_equal(counts[0].sum(axis=-1), counts[1].sum(axis=-1)):
        raise UsageError("paired models must be scored on the same images in the same order; their true pixels differ")
    if not 0 < level < 1:
        raise UsageError(f"level must lie between 0 and 1, got {level}")
    drawn = [bootstrap_scores(each, seed, replicates=replicates, score=score, groups=groups) for each in counts]
    whole = [getattr(scores_from_counts(each.sum(axis=0)), score) for each in counts]
    return _paired(whole[1] - whole[0], drawn[1] - drawn[0], level)


def paired_ratios(
    first: Sequence[Ratio],
    second: Sequence[Ratio],
    seed: int = 0,
    *,
    level: float = 0.95,
    replicates: int = 1000,
    groups: Sequence[Hashable] | None = None,
) -> PairedTest:
    """Compare two models by a score that is the mean over classes of a ratio of sums: mIoU, boundary IoU, continuity.

    Args:
        first: Numerators and denominators of each training of the first model, as ``bootstrap_ratios`` takes them.
        second: Those of the second, images in the same order. From 3 trainings of each on it is the test over seeds,
            else the paired bootstrap of the mean scores, which says nothing about other seeds.
        seed: Of the draws.
        level: Probability that the interval is meant to cover, between 0 and 1.
        replicates: Number of draws, R.
        groups: One value per image; images of equal value are drawn together.

    Returns:
        The comparison.

    Raises:
        UsageError: There is no training, the images differ, or an option is out of range.
    """
    shapes = [np.shape(part) for side in (first, second) for ratio in side for part in ratio]
    if not first or not second or len(set(shapes)) != 1:
        listed = ", ".join(str(shape) for shape in dict.fromkeys(shapes)) or "nothing"
        raise UsageError(f"paired models must be scored on the same images; got {listed}")
    if not 0 < level < 1 or replicates < 2:
        raise UsageError(f"level must lie between 0 and 1 and replicates be at least 2, got {level} and {replicates}")
    one = [0] * shapes[0][0]  # one group: its only draw is the whole
    drawn, scores = [], []
    for side in (first, second):
        draws = [bootstrap_ratios(*each, seed, replicates=replicates, groups=groups) for each in side]
        drawn.append(np.mean(draws, axis=0))
        scores.append(np.array([float(bootstrap_ratios(*each, replicates=1, groups=one)[0]) for each in side]))
    if min(len(first), len(second)) < _LEAST_SEEDS:
        return _paired(float(scores[1].mean() - scores[0].mean()), drawn[1] - drawn[0], level)
    blocks = shapes[0][0] if groups is None else len(set(groups))
    return _over_seeds((drawn[0], drawn[1]), (scores[0], scores[1]), blocks, level)


def seeds_test(
    first: Sequence[ArrayLike],
    second: Sequence[ArrayLike],
    seed: int = 0,
    *,
    level: float = 0.95,
    replicates: int = 1000,
    score: Score = "miou",
    groups: Sequence[Hashable] | None = None,
) -> PairedTest:
    """Compare two ways to train, each trained with several seeds and scored on the same images.

    Args:
        first: ``(N, K, K)`` confusion matrices of each of at least 3 trainings, rows are the truth.
        second: The same of the second way, images in the same order; as many seeds or others.
        seed: Of the draws.
        level: Probability that the interval is meant to cover, between 0 and 1.
        replicates: Number of draws, R.
        score: Which score.
        groups: One value per image; images of equal value are drawn together.

    Returns:
        The comparison of the mean scores over seeds.

    Raises:
        UsageError: Fewer than 3 seeds, other images, or an option out of range.
    """
    sides = [[np.asarray(each) for each in side] for side in (first, second)]
    if min(map(len, sides)) < _LEAST_SEEDS:
        raise UsageError(
            f"a test over seeds needs at least {_LEAST_SEEDS} trainings of each, "
            f"got {len(sides[0])} and {len(sides[1])}"
        )
    truth = sides[0][0].sum(axis=-1)
    if any(each.sum(axis=-1).shape != truth.shape or (each.sum(axis=-1) != truth).any() for s in sides for each in s):
        raise UsageError("paired models must be scored on the same images in the same order; their true pixels differ")
    if not 0 < level < 1 or replicates < 2:
        raise UsageError(f"level must lie between 0 and 1 and replicates be at least 2, got {level} and {replicates}")
    drawn = [
        np.mean([bootstrap_scores(e, seed, replicates=replicates, score=score, groups=groups) for e in side], axis=0)
        for side in sides
    ]
    scores = [np.array([getattr(scores_from_counts(each.sum(axis=0)), score) for each in side]) for side in sides]
    blocks = len(truth) if groups is None else len(set(groups))
    return _over_seeds((drawn[0], drawn[1]), (scores[0], scores[1]), blocks, level)


def adjust_p_values(p_values: Sequence[float]) -> tuple[float, ...]:
    """Raise p-values of several tests so that one false finding among all is as unlikely as each p-value says.

    S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6, 1979.

    Args:
        p_values: One per test, in any order.

    Returns:
        The adjusted ones, in the same order, each at most 1.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return tuple(adjusted)


def _paired(whole: float, drawn: NDArray[np.float64], level: float) -> PairedTest:
    """Read a test off the differences of the replicates."""
    replicates = len(drawn)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    below, above = np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0)
    p_value = min(1.0, 2 * (min(below, above) + 1) / (replicates + 1))
    normal = NormalDist()
    quantiles = normal.inv_cdf((1 + level) / 2) + normal.inv_cdf(_POWER)
    spread = float(drawn.std(ddof=1)) if replicates > 1 else float("nan")
    return PairedTest(whole, float(low), float(high), p_value, quantiles * spread)


def _over_seeds(
    drawn: tuple[NDArray[np.float64], NDArray[np.float64]],
    scores: tuple[NDArray[np.float64], NDArray[np.float64]],
    blocks: int,
    level: float,
) -> PairedTest:
    """Test the difference of two means over seeds.

    Args:
        drawn: ``(R,)`` mean scores over the seeds in each replicate, of both.
        scores: ``(S,)`` score of each seed on all images, of both.
        blocks: How many images, or groups of them, were drawn from.
        level: Of the interval.

    Returns:
        The test.
    """
    from scipy import stats

    difference = float(scores[1].mean() - scores[0].mean())
    parts = [(float((drawn[1] - drawn[0]).var(ddof=1)), blocks - 1)]
    parts += [(float(each.var(ddof=1)) / len(each), len(each) - 1) for each in scores]
    variance = sum(value for value, _ in parts)
    if variance == 0:
        return PairedTest(difference, difference, difference, 1.0 if difference == 0 else 0.0, 0.0)
    freedom = variance**2 / sum(value**2 / max(count, 1) for value, count in parts)
    spread = variance**0.5
    reach = float(stats.t.ppf((1 + level) / 2, freedom)) * spread
    p_value = float(2 * stats.t.sf(abs(difference) / spread, freedom))
    smallest = reach + float(stats.t.ppf(_POWER, freedom)) * spread
    return PairedTest(difference, difference - reach, difference + reach, p_value, smallest)
