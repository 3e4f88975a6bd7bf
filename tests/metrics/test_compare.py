# SPDX-License-Identifier: Apache-2.0
"""The paired test: right about equal models as often as it says, sharp on paired differences."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.typing import NDArray

from denseg.errors import UsageError
from denseg.metrics import bootstrap_scores, paired_bootstrap, scores_from_counts


def counts(share: NDArray[np.float64], rng: np.random.Generator, pixels: int = 400) -> NDArray[np.int64]:
    """Images of two classes of equal area, each right with its share."""
    right = rng.binomial(pixels, share[:, None], (len(share), 2))
    matrices = np.zeros((len(share), 2, 2), dtype=np.int64)
    for k in (0, 1):
        matrices[:, k, k], matrices[:, k, 1 - k] = right[:, k], pixels - right[:, k]
    return matrices


def test_is_the_difference_of_the_scores_of_the_same_draws() -> None:
    rng = np.random.default_rng(0)
    share = rng.beta(8, 2, 30)
    first, second = counts(share, rng), counts(share, rng)
    result = paired_bootstrap(first, second, 5, replicates=200, level=0.9)
    difference = bootstrap_scores(second, 5, replicates=200) - bootstrap_scores(first, 5, replicates=200)
    assert (result.low, result.high) == pytest.approx(tuple(np.quantile(difference, [0.05, 0.95])))
    whole = [scores_from_counts(each.sum(axis=0)).miou for each in (first, second)]
    assert result.difference == pytest.approx(whole[1] - whole[0])
    swapped = paired_bootstrap(second, first, 5, replicates=200, level=0.9)
    assert swapped.p_value == result.p_value
    assert (swapped.low, swapped.high) == pytest.approx((-result.high, -result.low))


def test_equal_models_are_seldom_called_different() -> None:
    rng = np.random.default_rng(1)
    called = 0
    for trial in range(200):
        share = rng.beta(8, 2, 40)
        called += paired_bootstrap(counts(share, rng), counts(share, rng), trial, replicates=200).p_value < 0.05
    assert called / 200 < 0.1


def test_a_small_difference_shows_where_images_are_paired() -> None:
    rng = np.random.default_rng(2)
    share = rng.uniform(0.5, 0.9, 60)
    better = paired_bootstrap(counts(share, rng), counts(share + 0.03, rng))
    assert better.p_value < 0.01
    assert 0 < better.low < better.difference < better.high
    assert better.smallest_difference < better.difference
    spread = np.std(bootstrap_scores(counts(share, rng)))
    assert spread > better.smallest_difference / 2.8, "unpaired, the spread of the images would hide it"


def test_the_same_model_twice_is_no_difference() -> None:
    matrices = counts(np.full(10, 0.8), np.random.default_rng(3))
    assert paired_bootstrap(matrices, matrices) == (0, 0, 0, 1, 0)


def test_faults_are_named() -> None:
    matrices = counts(np.full(10, 0.8), np.random.default_rng(4))
    expected = "paired models must be scored on the same images in the same order; their true pixels differ"
    for other in (matrices[:5], matrices + np.eye(2, dtype=int)):
        with pytest.raises(UsageError, match=f"^{re.escape(expected)}$"):
            paired_bootstrap(matrices, other)
    with pytest.raises(UsageError, match=r"^level must lie between 0 and 1, got 2$"):
        paired_bootstrap(matrices, matrices, level=2)
