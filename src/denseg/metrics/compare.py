# SPDX-License-Identifier: Apache-2.0
"""Whether one model is better than another, or only looks it on these images.

Definition:
    Paired bootstrap (B. Efron, R. J. Tibshirani, "An Introduction to the Bootstrap", 1993, Chapter 16; for two systems
    on one test set: P. Koehn, "Statistical Significance Tests for Machine Translation Evaluation", EMNLP 2004): the
    same images are drawn for both, and the difference of their scores is taken in each replicate. The p-value is
    two-sided: twice the smaller share of replicates on either side of 0, at least 2 / (R + 1).
    The smallest difference that these images can show is what a test of this level finds with a power of 0.8, from the
    spread of the replicates: (z of 1 - alpha / 2 + z of 0.8) times their standard deviation.

Shape letters: N images, K classes, R replicates.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from denseg.errors import UsageError
from denseg.metrics.confusion import scores_from_counts
from denseg.metrics.interval import Score, bootstrap_scores

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["PairedTest", "paired_bootstrap"]

_POWER = 0.8


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
    difference = drawn[1] - drawn[0]
    low, high = np.quantile(difference, [(1 - level) / 2, (1 + level) / 2])
    below, above = np.count_nonzero(difference <= 0), np.count_nonzero(difference >= 0)
    p_value = min(1.0, 2 * (min(below, above) + 1) / (replicates + 1))
    whole = [getattr(scores_from_counts(each.sum(axis=0)), score) for each in counts]
    normal = NormalDist()
    quantiles = normal.inv_cdf((1 + level) / 2) + normal.inv_cdf(_POWER)
    spread = float(difference.std(ddof=1)) if replicates > 1 else float("nan")
    return PairedTest(whole[1] - whole[0], float(low), float(high), p_value, quantiles * spread)
