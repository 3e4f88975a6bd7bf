# SPDX-License-Identifier: Apache-2.0
"""Scores of partitions against pair counting, scikit-image and topology computed from scratch."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage import metrics as skimage_metrics
from skimage.measure import euler_number

from denseg.errors import ShapeError, UsageError
from denseg.metrics import adapted_rand_error, objects_of, pixel_error, thin_borders, v_info, v_rand, warping_error
from denseg.metrics.segments import _simple_table


def cells(seed: int, shape: tuple[int, int] = (40, 50), level: float = 0.0) -> NDArray[np.int64]:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return objects_of(noise > level * noise.std())


@pytest.mark.parametrize("seed", range(4))
def test_adapted_rand_error_is_that_of_scikit_image(seed: int) -> None:
    prediction, target = cells(seed), cells(seed + 10)
    expected = skimage_metrics.adapted_rand_error(target, prediction)[0]
    assert adapted_rand_error(prediction, target) == pytest.approx(expected)
    assert adapted_rand_error(target, target) == 0


def test_adapted_rand_error_counts_pairs() -> None:
    prediction, target = np.array([[1, 1, 2, 2, 2, 0]]), np.array([[1, 1, 1, 2, 2, 0]])
    pixels = [(p, t) for p, t in zip(prediction[0], target[0], strict=True) if t]
    pairs = list(itertools.combinations(pixels, 2))
    both = sum(a[0] == b[0] and a[1] == b[1] for a, b in pairs)
    in_prediction, in_truth = (sum(a[i] == b[i] for a, b in pairs) for i in (0, 1))
    assert adapted_rand_error(prediction, target) == pytest.approx(1 - 2 * both / (in_prediction + in_truth))
    assert math.isnan(adapted_rand_error(np.array([[1, 2]]), np.array([[1, 2]])))


def test_rand_and_information_by_hand() -> None:
    target = np.array([[1, 1, 1, 1, 2, 2, 2, 2, 0, 0]])
    split = np.array([[1, 1, 3, 3, 2, 2, 2, 2, 5, 5]])
    merged = np.ones((1, 10), dtype=int)
    # split: p = 1/4, 1/4, 1/2; t = 1/2, 1/2; s = 1/4, 1/4, 1/2
    assert v_rand(split, target) == pytest.approx((2 * 0.75 / 1.75, 0.75, 1.0))
    assert v_rand(merged, target) == pytest.approx((2 * 0.5 / 1.5, 1.0, 0.5))
    assert v_rand(target, target) == (1, 1, 1)
    half, most = math.log(2), 1.5 * math.log(2)
    assert v_info(split, target) == pytest.approx((2 * half / (half + most), half / most, 1.0))
    assert v_info(merged, target) == pytest.approx((0.0, 1.0, 0.0))
    assert v_info(target, target) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("seed", range(3))
def test_information_is_one_less_the_variation_of_scikit_image(seed: int) -> None:
    prediction, target = cells(seed), cells(seed + 10)
    over, under = skimage_metrics.variation_of_information(target, prediction, ignore_labels=(0,))
    kept = target > 0
    shares = [np.unique(labels[kept], return_counts=True)[1] / kept.sum() for labels in (prediction, target)]
    predicted, true = (-(share * np.log2(share)).sum() for share in shares)
    result = v_info(prediction, target)
    assert result.split == pytest.approx(1 - over / predicted)  # H(S | T) = over-segmentation
    assert result.merge == pytest.approx(1 - under / true)


def test_predicted_background_is_one_object_or_singletons() -> None:
    target = np.array([[1, 1, 1, 1]])
    prediction = np.array([[0, 0, 1, 1]])
    assert v_rand(prediction, target).split == pytest.approx(0.5)
    assert v_rand(prediction, target, background="singletons").split == pytest.approx((1 + 1 + 4) / 16)
    assert v_rand(prediction, target, background="singletons").merge == 1


def test_no_true_foreground_gives_nan() -> None:
    nothing = np.zeros((3, 3), dtype=int)
    assert all(math.isnan(v) for v in (*v_rand(nothing, nothing), *v_info(nothing, nothing)))
    assert math.isnan(adapted_rand_error(nothing, nothing))


def test_objects_are_connected_by_sides() -> None:
    assert objects_of(np.array([[1, 0], [0, 1]])).tolist() == [[1, 0], [0, 2]]


def test_thin_borders_part_objects_by_one_pixel() -> None:
    objects = np.zeros((9, 12), dtype=int)
    objects[1:8, 1:4], objects[1:8, 8:11] = 1, 2
    thin = thin_borders(objects)
    assert (thin == 0).sum(axis=1).max() == 1
    assert set(np.unique(thin)) == {0, 1, 2}
    assert bool((thin[objects > 0] == objects[objects > 0]).all())
    assert not thin_borders(np.zeros((3, 3), dtype=int)).any()


def test_pixel_error_by_hand() -> None:
    prediction, target = np.array([[1, 1, 0, 0]]), np.array([[1, 0, 1, 0]])
    assert pixel_error(prediction, target) == 0.5
    assert pixel_error(prediction, target, kind="f_score") == 0.5
    assert pixel_error(target * 0, target * 0, kind="f_score") == 0


def test_the_table_of_simple_pixels_is_topology() -> None:
    for code, simple in enumerate(_simple_table()):
        block = np.insert(np.array([code >> bit & 1 for bit in range(8)]), 4, 0).reshape(3, 3)
        off, on = np.pad(block, 2), np.pad(block, 2)
        on[3, 3] = 1
        same_objects = ndimage.label(off)[1] == ndimage.label(on)[1]
        same_euler = euler_number(off, connectivity=1) == euler_number(on, connectivity=1)
        if simple:
            assert same_objects
            assert same_euler
        elif same_objects and same_euler:  # what the pair of counts cannot see: joining two while opening a hole
            assert ndimage.label(1 - off, np.ones((3, 3)))[1] == ndimage.label(1 - on, np.ones((3, 3)))[1]


def test_a_moved_border_costs_nothing_but_a_cut_or_a_merge_does() -> None:
    target = np.zeros((20, 20), dtype=int)
    target[3:17, 3:9], target[3:17, 11:17] = 1, 1
    moved = np.zeros_like(target)
    moved[2:18, 4:10], moved[4:16, 11:19] = 1, 1
    assert pixel_error(moved, target) > 0.1
    assert warping_error(moved, target) == 0
    assert warping_error(target, target) == 0
    merged = target.copy()
    merged[10, 9:11] = 1  # a bridge of two pixels: one may be filled, the last would join
    assert warping_error(merged, target) == 1 / 400
    cut = target.copy()
    cut[10, 3:9] = 0
    assert warping_error(cut, target) == 1 / 400
    hole = target.copy()
    hole[10, 5] = 0
    assert warping_error(hole, target) == 1 / 400
    assert warping_error(np.zeros_like(target), target) == 2 / 400, "each object shrinks to a pixel"


def test_warping_keeps_the_topology_of_the_truth_and_no_simple_difference() -> None:
    for seed in range(3):
        prediction, target = cells(seed) > 0, cells(seed + 5) > 0
        assert 0 < warping_error(prediction, target) < pixel_error(prediction, target)
        assert warping_error(prediction, target, radius=2) >= warping_error(prediction, target)
        assert warping_error(prediction, target, radius=0.5) >= warping_error(prediction, target, radius=2)


def test_faults_are_named() -> None:
    labels = np.zeros((2, 3, 3), dtype=int)
    expected = "objects are scored slice by slice, (H, W); got (2, 3, 3)"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        v_rand(labels, labels)
    with pytest.raises(UsageError, match=r"^background must be 'object' or 'singletons', got 'none'$"):
        v_rand(labels[0], labels[0], background="none")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"^kind must be 'difference' or 'f_score', got 'rmse'$"):
        pixel_error(labels, labels, kind="rmse")  # type: ignore[arg-type]
