# SPDX-License-Identifier: Apache-2.0
"""The paired test: right about equal models as often as it says, sharp on paired differences."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.typing import NDArray

from denseg.errors import UsageError
from denseg.metrics import (
    adjust_p_values,
    bootstrap_scores,
    paired_bootstrap,
    paired_ratios,
    scores_from_counts,
    seeds_test,
)


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


def trained(
    effects: NDArray[np.float64], images: NDArray[np.float64], rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """One training per effect of its seed, all on the same images."""
    return [counts(np.clip(images + effect, 0, 1), rng) for effect in effects]


def test_seeds_of_equal_ways_are_seldom_called_different() -> None:
    rng = np.random.default_rng(5)
    called, paired = 0, 0
    for trial in range(200):
        images = rng.uniform(0.5, 0.9, 25)
        sides = [trained(rng.normal(0, 0.02, 3), images, rng) for _ in range(2)]
        called += seeds_test(sides[0], sides[1], trial, replicates=100).p_value < 0.05
        paired += paired_bootstrap(sides[0][0], sides[1][0], trial, replicates=100).p_value < 0.05
    assert called / 200 < 0.09
    assert paired / 200 > 0.25, "one seed of each says too much: what the test over seeds is for"


def test_a_way_that_is_better_with_every_seed_is_found() -> None:
    rng = np.random.default_rng(6)
    images = rng.uniform(0.5, 0.8, 40)
    first, second = (trained(rng.normal(gain, 0.005, 4), images, rng) for gain in (0, 0.08))
    found = seeds_test(first, second)
    assert found.p_value < 0.001
    assert found.low < found.difference < found.high
    assert found.smallest_difference < found.difference
    means = [np.mean([scores_from_counts(each.sum(axis=0)).miou for each in side]) for side in (first, second)]
    assert found.difference == pytest.approx(means[1] - means[0])
    back = seeds_test(second, first)
    assert (back.low, back.high, back.p_value) == pytest.approx((-found.high, -found.low, found.p_value))


def test_without_spread_over_seeds_it_is_the_spread_over_images() -> None:
    rng = np.random.default_rng(7)
    images = rng.uniform(0.5, 0.9, 200)
    first, second = counts(images, rng), counts(images + 0.01, rng)
    over_seeds = seeds_test([first] * 3, [second] * 3, 1)
    over_images = paired_bootstrap(first, second, 1)
    assert (over_seeds.low, over_seeds.high) == pytest.approx((over_images.low, over_images.high), abs=0.002)
    same = seeds_test([first] * 3, [first] * 3)
    assert same == (0, 0, 0, 1, 0)


def test_ratios_are_compared_like_the_scores_they_are() -> None:
    rng = np.random.default_rng(8)
    share = rng.beta(8, 2, 30)
    first, second = counts(share, rng), counts(share + 0.02 * (1 - share), rng)
    sides = []
    for matrices in (first, second):
        right = np.diagonal(matrices, axis1=1, axis2=2)
        sides.append((right, matrices.sum(axis=1) + matrices.sum(axis=2) - right))
    ratios = paired_ratios([sides[0]], [sides[1]], 3, replicates=300)
    assert ratios == pytest.approx(paired_bootstrap(first, second, 3, replicates=300))
    over_seeds = paired_ratios([sides[0]] * 3, [sides[1]] * 3, 3, replicates=300)
    assert over_seeds == pytest.approx(seeds_test([first] * 3, [second] * 3, 3, replicates=300))


def test_adjusted_p_values_by_hand() -> None:
    assert adjust_p_values([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert adjust_p_values([0.9, 0.8]) == (1.0, 1.0)
    assert adjust_p_values([]) == ()


def test_faults_of_seeds_and_ratios_are_named() -> None:
    matrices = counts(np.full(10, 0.8), np.random.default_rng(4))
    with pytest.raises(UsageError, match=r"^a test over seeds needs at least 3 trainings of each, got 3 and 2$"):
        seeds_test([matrices] * 3, [matrices] * 2)
    with pytest.raises(UsageError, match=r"^paired models must be scored on the same images in the same order; .*$"):
        seeds_test([matrices] * 3, [matrices[:5]] * 3)
    with pytest.raises(UsageError, match=r"^level must lie between 0 and 1 and replicates be at least 2, got 1 and 9$"):
        seeds_test([matrices] * 3, [matrices] * 3, level=1, replicates=9)
    ones = (np.ones((4, 2)), np.ones((4, 2)))
    with pytest.raises(UsageError, match=r"^paired models must be scored on the same images; got \(4, 2\), \(3, 2\)$"):
        paired_ratios([ones], [(ones[0][:3], ones[1][:3])])
    with pytest.raises(UsageError, match=r"^paired models must be scored on the same images; got nothing$"):
        paired_ratios([], [])
