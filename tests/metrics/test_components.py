# SPDX-License-Identifier: Apache-2.0
"""Continuity and size-stratified recall on pictures that a reader can check."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from denseg.errors import UsageError
from denseg.metrics import Continuity, SizeRecall, continuity, size_recall


def picture(*rows: str) -> NDArray[np.int64]:
    """``.`` is class 0, ``#`` class 1, ``?`` unlabelled."""
    return np.array([[{".": 0, "#": 1, "?": 255}[char] for char in row] for row in rows])


def of_class_1(prediction: NDArray[np.int64], target: NDArray[np.int64], **options: int) -> dict[str, float]:
    result = continuity(prediction, target, 2, **options)
    names = ("components", "pieces", "holes", "recall_sum", "vanished", "merges", "intact")
    return {name: float(getattr(result, name)[1]) for name in names}


TRUTH = picture(
    "..........",
    ".####..##.",
    ".####..##.",
    ".####..##.",
    ".####.....",
    "..........",
)


def test_a_perfect_answer_is_intact() -> None:
    assert of_class_1(TRUTH, TRUTH) == {
        "components": 2, "pieces": 2, "holes": 0, "recall_sum": 2, "vanished": 0, "merges": 0, "intact": 2,
    }  # fmt: skip
    result = continuity(TRUTH, TRUTH, 2)
    assert result.score == 1.0
    assert result.pieces_per_component.tolist() == [1, 1]


def test_pieces_holes_and_a_vanished_component() -> None:
    prediction = picture(
        "..........",
        ".####.....",
        ".#.##.....",
        ".####.....",
        ".#..#.....",
        "..........",
    )
    # The 4x4 square: one piece, one hole; the gap below is open to the outside. The other vanished.
    assert of_class_1(prediction, TRUTH) == {
        "components": 2, "pieces": 1, "holes": 1, "recall_sum": 13 / 16, "vanished": 1, "merges": 0, "intact": 0,
    }  # fmt: skip
    split = picture(
        "..........",
        ".#..#..##.",
        ".#..#..##.",
        ".#..#..##.",
        ".#..#.....",
        "..........",
    )
    assert of_class_1(split, TRUTH) == {
        "components": 2, "pieces": 3, "holes": 0, "recall_sum": 1.5, "vanished": 0, "merges": 0, "intact": 1,
    }  # fmt: skip


def test_merging_is_not_rewarded() -> None:
    merged = picture(
        "..........",
        ".########.",
        ".####..##.",
        ".####..##.",
        ".####.....",
        "..........",
    )
    assert of_class_1(merged, TRUTH) == {
        "components": 2, "pieces": 2, "holes": 0, "recall_sum": 2, "vanished": 0, "merges": 1, "intact": 0,
    }  # fmt: skip
    assert of_class_1(np.ones_like(TRUTH), TRUTH)["intact"] == 0
    assert of_class_1(np.zeros_like(TRUTH), TRUTH)["vanished"] == 2


def test_diagonal_neighbours_are_one_component_and_one_piece() -> None:
    diagonal = picture("#..", ".#.", "..#")
    assert of_class_1(diagonal, diagonal)["components"] == 1
    assert of_class_1(diagonal, diagonal)["pieces"] == 1


def test_a_wrong_region_at_the_edge_of_the_image_is_no_hole() -> None:
    target = np.ones((4, 4), dtype=np.int64)
    for hole, holes in (((0, 1), 0), ((1, 1), 1)):
        prediction = target.copy()
        prediction[hole] = 0
        assert of_class_1(prediction, target)["holes"] == holes


def test_unlabelled_pixels_neither_count_nor_part() -> None:
    target = picture(".......", ".##?##.", ".##?##.", ".......")
    prediction = picture(".......", ".#####.", ".#####.", ".......")
    assert of_class_1(prediction, target)["components"] == 1, "the prediction bridges what nobody labelled"
    assert of_class_1(prediction, target)["recall_sum"] == 1
    gap = picture(".......", ".##.##.", ".##.##.", ".......")
    assert of_class_1(gap, target)["components"] == 2
    assert of_class_1(gap, target)["intact"] == 2


def test_small_components_may_be_left_out() -> None:
    target, prediction = TRUTH.copy(), TRUTH.copy()
    target[5, 9] = 1
    prediction[0, 0] = 1  # touches the square: part of its piece
    assert of_class_1(prediction, target)["components"] == 3
    assert of_class_1(prediction, target, min_size=2)["components"] == 2
    assert of_class_1(prediction, target, min_size=7)["components"] == 1
    with pytest.raises(UsageError, match=r"^min_size must be at least 1 pixel, got 0$"):
        continuity(prediction, target, 2, min_size=0)


def test_images_add_up_and_absent_classes_are_nan() -> None:
    other = np.zeros_like(TRUTH)
    both = continuity(np.stack([TRUTH, other]), np.stack([TRUTH, TRUTH]), 3)
    parts = continuity(TRUTH, TRUTH, 3) + continuity(other, TRUTH, 3)
    assert isinstance(parts, Continuity)
    assert both.components.tolist() == parts.components.tolist() == [2, 4, 0]
    assert both.recall[1] == parts.recall[1] == 0.5
    assert math.isnan(both.recall[2])
    assert both.intact_share[1] == 0.5
    assert both.holes_per_component[1] == 0
    assert math.isnan(continuity(other, np.full_like(TRUTH, 255), 2).score)


def test_equals_a_loop_over_components() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        maps = ndimage.gaussian_filter(rng.normal(size=(2, 3, 30, 40)), (0, 0, 1.5, 1.5)).argmax(axis=1)
        prediction, target = maps
        result = continuity(prediction, target, 3)
        for k in range(3):
            true_labels, count = ndimage.label(target == k, np.ones((3, 3)))
            found, _ = ndimage.label(prediction == k, np.ones((3, 3)))
            pieces = recall = holes = 0
            for i in range(1, count + 1):
                own = true_labels == i
                pieces += len(set(found[own]) - {0})
                recall += (prediction[own] == k).mean()
                regions, regions_count = ndimage.label(own & (prediction != k))
                for j in range(1, regions_count + 1):
                    grown = ndimage.binary_dilation(np.pad(regions == j, 1))
                    holes += not (grown & ~np.pad(own, 1)).any()
            merges = sum(max(0, len(set(true_labels[found == j]) - {0}) - 1) for j in range(1, found.max() + 1))
            assert (result.components[k], result.pieces[k], result.holes[k]) == (count, pieces, holes)
            assert result.merges[k] == merges
            assert result.recall_sum[k] == pytest.approx(recall)


def test_recall_by_size() -> None:
    prediction = TRUTH.copy()
    prediction[1:4, 7] = 0  # half of the small one
    prediction[3:5, 1:5] = 0
    prediction[2, 1] = 0  # 7 of 16 of the large one
    result = size_recall(prediction, TRUTH, 2, bounds=(10, 20))
    # class 0's only component has 38 pixels, all found; class 1 has one of 6 and one of 16
    assert result.components.tolist() == [1, 1, 1]
    np.testing.assert_allclose(result.recall, [0.5, 7 / 16, 1])
    assert result.found_share.tolist() == [1, 0, 1]
    twice = result + result
    assert isinstance(twice, SizeRecall)
    assert twice.components.tolist() == [2, 2, 2]
    np.testing.assert_allclose(twice.recall, result.recall)


def test_faults_of_size_recall_are_named() -> None:
    with pytest.raises(UsageError, match=r"^bounds must increase, got \[5, 5\]$"):
        size_recall(TRUTH, TRUTH, 2, bounds=(5, 5))
    with pytest.raises(UsageError, match=r"^size strata to merge must agree in bounds, got \(5,\) and \(6,\)$"):
        size_recall(TRUTH, TRUTH, 2, bounds=(5,)) + size_recall(TRUTH, TRUTH, 2, bounds=(6,))
