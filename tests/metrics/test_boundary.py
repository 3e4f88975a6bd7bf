# SPDX-License-Identifier: Apache-2.0
"""Boundary metrics against brute force, by hand, and at their limits."""

from __future__ import annotations

import math
import re
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage.metrics import hausdorff_distance

from denseg.errors import ShapeError, UsageError
from denseg.metrics import boundary_counts, boundary_f_score, boundary_iou, hausdorff, trimap, trimap_counts

nan = float("nan")


def blobs(seed: int, shape: tuple[int, int] = (24, 31), num_classes: int = 3) -> NDArray[np.int64]:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(num_classes, *shape)), (0, 3, 3))
    return noise.argmax(axis=0)


def official_boundary(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The paper's program: pad with one pixel of nothing, erode ``width`` times by 3x3, subtract."""
    eroded = ndimage.binary_erosion(np.pad(mask, 1), np.ones((3, 3)), iterations=width)
    return mask & ~eroded[1:-1, 1:-1]


@pytest.mark.parametrize("ratio", [0.005, 0.02, 0.1])
def test_boundary_iou_is_the_papers(ratio: float) -> None:
    prediction, target = blobs(0), blobs(1)
    width = max(1, round(ratio * math.hypot(24, 31)))
    expected = []
    for k in range(3):
        a, b = (official_boundary(labels == k, width) for labels in (prediction, target))
        expected.append((a & b).sum() / (a | b).sum())
    scores = boundary_iou(prediction, target, 3, ratio=ratio)
    np.testing.assert_allclose(scores.each, expected)
    assert scores.mean == pytest.approx(np.mean(expected))


def test_boundary_iou_by_hand() -> None:
    target = np.zeros((8, 8), dtype=np.int64)
    target[2:6, 2:6] = 1  # its band at width 1: the 12 pixels of its rim
    prediction = np.zeros((8, 8), dtype=np.int64)
    prediction[2:6, 2:7] = 1  # rim of 4x5: 14 pixels; shared: 4 + 4 above and below, 2 left
    counts = boundary_counts(prediction, target, 2, ratio=0.01)
    assert counts[:, 1].tolist() == [10, 16]


def test_wide_bands_give_the_iou_and_equal_maps_give_one() -> None:
    prediction, target = blobs(2), blobs(3)
    whole = boundary_counts(prediction, target, 3, ratio=2.0)
    for k in range(3):
        a, b = prediction == k, target == k
        assert whole[:, k].tolist() == [(a & b).sum(), (a | b).sum()]
    assert boundary_iou(target, target, 4) == (1.0, pytest.approx((1.0, 1.0, 1.0, nan), nan_ok=True))


def test_a_shift_hurts_the_boundary_more_than_the_area() -> None:
    target = np.zeros((100, 100), dtype=np.int64)
    target[20:80, 20:80] = 1
    prediction = np.roll(target, 2, axis=1)
    a, b = prediction == 1, target == 1
    assert boundary_iou(prediction, target, 2, ratio=0.01).each[1] < (a & b).sum() / (a | b).sum() - 0.2


def test_ignored_pixels_neither_count_nor_make_borders() -> None:
    prediction = blobs(4)
    target = prediction.copy()
    target[5:9, 4:20] = 255
    for score in (boundary_iou, boundary_f_score):
        assert score(prediction, target, 3).mean == 1.0
    changed = prediction.copy()
    target[3:11, 2:22] = 255
    changed[6:8, 8:15] = 9  # out of range, but under ignored pixels, far from the others
    assert boundary_iou(changed, target, 3, ratio=0.01).mean == 1.0
    everything = np.full_like(target, 255)
    assert math.isnan(boundary_iou(prediction, everything, 3).mean)
    assert math.isnan(boundary_f_score(prediction, everything, 3).mean)
    assert math.isnan(hausdorff(prediction, everything, 3).mean)


def test_counts_of_images_add_up() -> None:
    predictions, targets = np.stack([blobs(5), blobs(6)]), np.stack([blobs(7), blobs(8)])
    for count in (boundary_counts, trimap_counts):
        together = count(predictions, targets, 3)
        alone = sum(count(p, t, 3) for p, t in zip(predictions, targets, strict=True))
        assert np.array_equal(together, alone)


def brute_distance_to_other(target: NDArray[np.int64], void: bool) -> NDArray[np.float64]:
    distance = np.full(target.shape, np.inf)
    for i, j in product(*map(range, target.shape)):
        for r, c in product(*map(range, target.shape)):
            other = target[r, c] == 255 if void else target[r, c] not in (255, target[i, j])
            if other and target[i, j] != 255:
                distance[i, j] = min(distance[i, j], math.hypot(i - r, j - c))
    return distance


@pytest.mark.parametrize("around", ["labels", "void"])
def test_trimap_equals_brute_force(around: str) -> None:
    prediction, target = blobs(9, (11, 13)), blobs(10, (11, 13))
    target[4:6, 3:8] = 255
    distance = brute_distance_to_other(target, around == "void")
    counts = trimap_counts(prediction, target, 3, widths=(1, 2, 4), around=around)  # type: ignore[arg-type]
    for width, each in zip((1, 2, 4), counts, strict=True):
        expected = np.zeros((3, 3), dtype=np.int64)
        near = (distance <= width) & (target != 255)
        np.add.at(expected, (target[near], prediction[near]), 1)
        assert np.array_equal(each, expected)
    scores = trimap(prediction, target, 3, widths=(1, 2, 4), around=around)  # type: ignore[arg-type]
    assert [s.pixels for s in scores] == [tuple(each.sum(axis=1)) for each in counts]


def test_a_trimap_without_border_is_empty() -> None:
    flat = np.zeros((5, 5), dtype=np.int64)
    assert trimap_counts(flat, flat, 2).sum() == 0
    assert trimap_counts(flat, flat, 2, around="void").sum() == 0


def brute_f_score(prediction: NDArray[np.int64], target: NDArray[np.int64], k: int, reach: float) -> float:
    def contour(labels: NDArray[np.int64]) -> list[tuple[int, int]]:
        points = []
        for i, j in product(*map(range, labels.shape)):
            around = [(i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)]
            inside = [(r, c) for r, c in around if 0 <= r < labels.shape[0] and 0 <= c < labels.shape[1]]
            if labels[i, j] == k and any(labels[r, c] != k for r, c in inside):
                points.append((i, j))
        return points

    a, b = contour(prediction), contour(target)
    hit = [sum(any(math.dist(p, q) <= reach for q in to) for p in of) for of, to in ((a, b), (b, a))]
    precision, recall = hit[0] / len(a), hit[1] / len(b)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("tolerance", [0.0, 0.05, 0.1])
def test_boundary_f_score_equals_brute_force(tolerance: float) -> None:
    prediction, target = blobs(11), blobs(12)
    expected = [brute_f_score(prediction, target, k, tolerance * math.hypot(24, 31)) for k in range(3)]
    scores = boundary_f_score(prediction, target, 3, tolerance=tolerance)
    np.testing.assert_allclose(scores.each, expected)


def test_boundary_f_score_forgives_what_is_within_reach() -> None:
    target = np.zeros((100, 100), dtype=np.int64)
    target[20:80, 20:80] = 1
    prediction = np.roll(target, 2, axis=1)
    assert boundary_f_score(prediction, target, 2, tolerance=2 / math.hypot(100, 100)).mean == 1.0
    assert boundary_f_score(prediction, target, 2, tolerance=1 / math.hypot(100, 100)).mean < 0.8
    assert boundary_f_score(np.zeros_like(target), target, 2).each == (0.0, 0.0)


def test_hausdorff_equals_scikit_image_and_percentiles_by_hand() -> None:
    prediction, target = blobs(13), blobs(14)
    expected = []
    for k in range(3):
        a, b = ((m := labels == k) & ~ndimage.binary_erosion(m) for labels in (prediction, target))
        expected.append(hausdorff_distance(a, b))
    np.testing.assert_allclose(hausdorff(prediction, target, 3, percentile=100).each, expected)
    target = np.zeros((5, 41), dtype=np.int64)
    target[2, :] = 1  # a line; the prediction is the same line with one pixel 2 rows away
    prediction = target.copy()
    prediction[0, 20] = 1
    assert hausdorff(prediction, target, 2, percentile=100).each[1] == 2
    assert hausdorff(prediction, target, 2).each[1] == 0
    assert math.isnan(hausdorff(prediction, np.zeros_like(target), 2).each[1])


def test_faults_are_named() -> None:
    labels = np.zeros((4, 4), dtype=np.int64)
    with pytest.raises(UsageError, match=r"^ratio must be positive, got 0$"):
        boundary_iou(labels, labels, 2, ratio=0)
    with pytest.raises(UsageError, match=r"^around must be 'labels' or 'void', got 'edges'$"):
        trimap(labels, labels, 2, around="edges")  # type: ignore[arg-type]
    expected = "prediction must be integer (H, W) or (B, H, W), got float64 (4, 4)"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        boundary_iou(labels.astype(float), labels, 2)
    expected = "prediction and target must have one shape, got (4, 4) and (4, 3)"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        boundary_iou(labels, labels[:, :3], 2)
    with pytest.raises(ShapeError, match=r"^prediction must hold classes 0\.\.1, got 2$"):
        boundary_iou(labels + 2, labels, 2)
    with pytest.raises(ShapeError, match=r"^target must hold classes 0\.\.1, got -1$"):
        boundary_iou(labels, labels - 1, 2)
