# SPDX-License-Identifier: Apache-2.0
"""Bootstrap intervals: their definition recomputed image by image, and how often they cover the truth."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from denseg.errors import UsageError
from denseg.metrics import (
    bootstrap_classes,
    bootstrap_interval,
    bootstrap_ratios,
    bootstrap_scores,
    scores_from_counts,
    sequence_blocks,
)

SCORES = ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")


def some_counts(images: int = 12, num_classes: int = 3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(20 * np.eye(num_classes) + 4, (images, num_classes, num_classes))


@pytest.mark.parametrize("score", SCORES)
def test_each_replicate_is_the_score_of_the_drawn_images(score: str) -> None:
    counts = some_counts()
    replicates = bootstrap_scores(counts, 3, replicates=50, score=score)  # type: ignore[arg-type]
    draws = np.random.default_rng(3).multinomial(12, np.full(12, 1 / 12), size=50)
    expected = [getattr(scores_from_counts(np.einsum("n,nij->ij", draw, counts)), score) for draw in draws]
    np.testing.assert_allclose(replicates, expected)


@pytest.mark.parametrize("score", SCORES)
def test_the_interval_holds_the_score_and_is_the_same_each_time(score: str) -> None:
    counts = some_counts()
    low, high = bootstrap_interval(counts, 1, score=score)  # type: ignore[arg-type]
    assert low < getattr(scores_from_counts(counts.sum(axis=0)), score) < high
    assert bootstrap_interval(list(counts), 1, score=score) == (low, high)  # type: ignore[arg-type]
    assert bootstrap_interval(counts, 2, score=score) != (low, high)  # type: ignore[arg-type]


def test_a_wider_level_gives_a_wider_interval() -> None:
    low, high = bootstrap_interval(some_counts(), level=0.5)
    lower, higher = bootstrap_interval(some_counts(), level=0.99)
    assert lower < low < high < higher


def test_the_classes_are_those_of_the_full_data_in_every_replicate() -> None:
    # Class 2 is in the first image alone; replicates without it keep its value, so the mean stays over 3 classes.
    counts = np.array([np.diag([5, 5, 0]), np.diag([5, 5, 0])])
    counts[0, 2, 2], counts[0, 2, 0] = 1, 1
    scores = bootstrap_scores(counts, replicates=200)
    # The first image is drawn 0, 1 or 2 times, each time with a wrong pixel in the column of class 0.
    expected = [(10 / (10 + draws) + 1 + 0.5) / 3 for draws in (0, 1, 2)]
    assert sorted({round(value, 9) for value in scores}) == sorted(round(value, 9) for value in expected)


def test_a_class_without_pixels_anywhere_takes_no_part() -> None:
    counts = np.zeros((4, 3, 3), dtype=int)
    counts[:, :2, :2] = some_counts(4, 2)
    assert bootstrap_interval(counts) == bootstrap_interval(counts[:, :2, :2])


def test_images_of_a_group_are_drawn_together() -> None:
    counts = some_counts(12)
    groups = np.arange(12) // 4
    merged = np.stack([counts[groups == g].sum(axis=0) for g in range(3)])
    assert bootstrap_interval(counts, groups=groups.tolist()) == bootstrap_interval(merged)
    assert bootstrap_interval(counts, groups=["a"] * 12) == pytest.approx(
        [scores_from_counts(counts.sum(axis=0)).miou] * 2
    )


def test_the_interval_covers_as_often_as_it_says() -> None:
    # Each image's share of right pixels varies; the truth is the share of the population.
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        share = rng.beta(8, 2, 40)
        right = rng.binomial(100, share)
        counts = np.zeros((40, 2, 2), dtype=int)
        counts[:, 0, 0], counts[:, 0, 1] = right, 100 - right
        low, high = bootstrap_interval(counts, trial, score="pixel_accuracy", replicates=400)
        covered += low <= 0.8 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_no_labelled_pixel_gives_nan() -> None:
    for score in SCORES:
        assert all(map(math.isnan, bootstrap_interval(np.zeros((3, 2, 2), int), score=score)))  # type: ignore[arg-type]


def test_faults_are_named() -> None:
    with pytest.raises(UsageError, match=r"^per-image counts must be \(N, K, K\) with at least one image, got \(0,\)$"):
        bootstrap_interval([])
    with pytest.raises(UsageError, match=r"^groups needs one value per image, 12; got 2$"):
        bootstrap_interval(some_counts(), groups=["a", "b"])
    expected = "score must be miou, pixel_accuracy, mean_accuracy or frequency_weighted_iou, got 'iou'"
    with pytest.raises(UsageError, match=f"^{re.escape(expected)}$"):
        bootstrap_interval(some_counts(), score="iou")  # type: ignore[arg-type]
    expected = "level must lie between 0 and 1 and replicates be at least 1, got 95 and 1000"
    with pytest.raises(UsageError, match=f"^{re.escape(expected)}$"):
        bootstrap_interval(some_counts(), level=95)


def test_a_ratio_of_sums_is_drawn_like_the_score_it_is() -> None:
    rng = np.random.default_rng(11)
    matrices = rng.integers(0, 50, (12, 4, 4))
    matrices[:, 3], matrices[:, :, 3] = 0, 0  # a class without a union
    right = np.diagonal(matrices, axis1=1, axis2=2)
    union = matrices.sum(axis=1) + matrices.sum(axis=2) - right
    for groups in (None, [index // 3 for index in range(12)]):
        drawn = bootstrap_ratios(right, union, 4, replicates=100, groups=groups)
        np.testing.assert_allclose(drawn, bootstrap_scores(matrices, 4, replicates=100, groups=groups))
    one = bootstrap_ratios(right[:, 0], union[:, 0], 4, replicates=50)
    np.testing.assert_allclose(one, bootstrap_ratios(right[:, :1], union[:, :1], 4, replicates=50))
    assert np.isnan(bootstrap_ratios(right[:, 3], union[:, 3], replicates=5)).all()


def test_the_intervals_of_classes_are_those_of_their_own_draws() -> None:
    rng = np.random.default_rng(12)
    matrices = rng.integers(0, 50, (9, 3, 3))
    matrices[:, 2], matrices[:, :, 2] = 0, 0
    matrices[1:, 1], matrices[1:, :, 1] = 0, 0  # class 1 occurs in one image: many draws lack it
    ends = bootstrap_classes(matrices, 5, level=0.9, replicates=200)
    draws = np.random.default_rng(5).multinomial(9, np.full(9, 1 / 9), size=200)
    values = []
    for draw in draws:
        total = np.tensordot(draw, matrices, axes=1)
        union = total.sum(axis=0) + total.sum(axis=1) - np.diag(total)
        values.append(total[0, 0] / union[0])
    np.testing.assert_allclose(ends[0], np.quantile(values, [0.05, 0.95]))
    only = matrices[0]
    whole = only[1, 1] / (only[1].sum() + only[:, 1].sum() - only[1, 1])
    assert ends[1, 0] <= whole <= ends[1, 1] or np.isclose(ends[1], whole).any()
    assert np.isnan(ends[2]).all()


def test_blocks_are_neighbours_of_one_sequence() -> None:
    frames = ["a", "a", "b", "a", "b", "a", "a"]
    assert sequence_blocks(frames, 2) == [("a", 0), ("a", 0), ("b", 0), ("a", 1), ("b", 0), ("a", 1), ("a", 2)]
    with pytest.raises(UsageError, match=r"^a block holds at least 1 image, got 0$"):
        sequence_blocks(frames, 0)


def test_blocks_widen_the_interval_where_neighbours_are_alike() -> None:
    rng = np.random.default_rng(13)
    share = np.repeat(rng.uniform(0.4, 0.95, 12), 10)  # 12 stretches of 10 frames
    right = rng.binomial(500, share)
    matrices = np.zeros((120, 2, 2), dtype=np.int64)
    matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 1, 1] = right, 500 - right, 500
    alone = bootstrap_interval(matrices)
    together = bootstrap_interval(matrices, groups=sequence_blocks(["video"] * 120, 10))
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


def test_faults_of_ratios_and_classes_are_named() -> None:
    message = (
        r"^numerators and denominators must both be \(N, K\) or \(N,\) with at least one image, "
        r"got \(3, 2\) and \(2, 2\)$"
    )
    with pytest.raises(UsageError, match=message):
        bootstrap_ratios(np.ones((3, 2)), np.ones((2, 2)))
    with pytest.raises(UsageError, match=r"^per-image counts must be \(N, K, K\) with at least one image, got .*$"):
        bootstrap_classes(np.ones((3, 2)))
    with pytest.raises(
        UsageError, match=r"^level must lie between 0 and 1 and replicates be at least 1, got 0.9 and 0$"
    ):
        bootstrap_classes(np.ones((3, 2, 2)), level=0.9, replicates=0)
