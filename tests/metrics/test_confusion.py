# SPDX-License-Identifier: Apache-2.0
"""Scores against naive counting, torchmetrics and cases computed by hand."""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from denseg.errors import ShapeError, UsageError
from denseg.metrics import ConfusionMatrix, dice_from_counts, majority_baseline, per_image_scores

nan = float("nan")


def naive_counts(prediction: NDArray, target: NDArray, num_classes: int, ignore_index: int) -> NDArray:
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    for p, t in zip(prediction.ravel().tolist(), target.ravel().tolist(), strict=True):
        if t != ignore_index:
            counts[t, p] += 1
    return counts


labels = st.integers(1, 6).flatmap(
    lambda k: st.tuples(
        st.just(k),
        st.lists(st.tuples(st.integers(0, k - 1), st.one_of(st.just(255), st.integers(0, k - 1))), max_size=40),
    )
)


@settings(deadline=None, max_examples=200)
@given(labels)
def test_counts_and_scores_equal_naive_counting(case: tuple[int, list[tuple[int, int]]]) -> None:
    num_classes, pairs = case
    prediction = np.array([p for p, _ in pairs], dtype=np.uint8)
    target = np.array([t for _, t in pairs], dtype=np.uint8)
    matrix = ConfusionMatrix(num_classes).update(prediction, target)
    expected = naive_counts(prediction, target, num_classes, 255)
    assert np.array_equal(matrix.counts, expected)

    valid = target != 255
    p, t = prediction[valid], target[valid]
    iou, accuracy = [], []
    for k in range(num_classes):
        union = int(((p == k) | (t == k)).sum())
        iou.append(((p == k) & (t == k)).sum() / union if union else nan)
        accuracy.append((p[t == k] == k).mean() if (t == k).any() else nan)
    scores = matrix.compute()
    np.testing.assert_allclose(scores.iou, iou)
    np.testing.assert_allclose(scores.accuracy, accuracy)
    assert scores.pixels == tuple(int((t == k).sum()) for k in range(num_classes))
    assert scores.present == tuple(not math.isnan(value) for value in iou)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing
        expected_means = [np.nanmean(iou), np.nanmean(accuracy), (p == t).mean() if t.size else nan]
    np.testing.assert_allclose([scores.miou, scores.mean_accuracy, scores.pixel_accuracy], expected_means)
    weighted = sum(iou[k] * (t == k).sum() for k in range(num_classes) if (t == k).any()) / t.size if t.size else nan
    np.testing.assert_allclose(scores.frequency_weighted_iou, weighted)


def test_by_hand() -> None:
    target = np.array([[0, 0, 0, 1], [1, 1, 255, 255]])
    prediction = np.array([[0, 0, 1, 1], [1, 3, 2, 0]])
    scores = ConfusionMatrix(4).update(prediction, target).compute()
    np.testing.assert_allclose(scores.iou, [2 / 3, 2 / 4, nan, 0])  # 2: only under an ignored pixel; 3: never true
    assert scores.present == (True, True, False, True)
    assert scores.miou == pytest.approx((2 / 3 + 2 / 4 + 0) / 3)
    np.testing.assert_allclose(scores.accuracy, [2 / 3, 2 / 3, nan, nan])
    assert scores.mean_accuracy == pytest.approx(2 / 3)
    assert scores.pixel_accuracy == pytest.approx(4 / 6)
    assert scores.frequency_weighted_iou == pytest.approx((3 * 2 / 3 + 3 * 2 / 4) / 6)
    assert scores.pixels == (3, 3, 0, 0)


@pytest.mark.parametrize("seed", range(3))
def test_equals_torchmetrics(seed: int) -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 5, (3, 20, 30), generator=generator)
    prediction = torch.where(torch.rand(target.shape, generator=generator) < 0.6, target, target.flip(2))
    target[torch.rand(target.shape, generator=generator) < 0.1] = 255
    prediction[prediction == 255] = 0
    scores = ConfusionMatrix(5).update(prediction, target).compute()
    options = {"num_classes": 5, "ignore_index": 255}
    per_class = classification.MulticlassJaccardIndex(average="none", **options)(prediction, target)
    macro = classification.MulticlassJaccardIndex(average="macro", **options)(prediction, target)
    weighted = classification.MulticlassJaccardIndex(average="weighted", **options)(prediction, target)
    mean_accuracy = classification.MulticlassAccuracy(average="macro", **options)(prediction, target)
    accuracy = classification.MulticlassAccuracy(average="micro", **options)(prediction, target)
    np.testing.assert_allclose(scores.iou, per_class.numpy(), rtol=1e-6)
    assert scores.miou == pytest.approx(float(macro), rel=1e-6)
    assert scores.frequency_weighted_iou == pytest.approx(float(weighted), rel=1e-6)
    assert scores.mean_accuracy == pytest.approx(float(mean_accuracy), rel=1e-6)
    assert scores.pixel_accuracy == pytest.approx(float(accuracy), rel=1e-6)


def test_counts_are_summed_over_images_before_the_ratio() -> None:
    big = np.zeros((10, 10), dtype=np.int64)
    small_target, small_prediction = np.zeros(4, dtype=np.int64), np.ones(4, dtype=np.int64)
    scores = ConfusionMatrix(2).update(big, big).update(small_prediction, small_target).compute()
    assert scores.iou == (100 / 104, 0.0)


def test_matrices_merge() -> None:
    rng = np.random.default_rng(0)
    pairs = [rng.integers(0, 3, (2, 50)) for _ in range(3)]
    together = ConfusionMatrix(3)
    for prediction, target in pairs:
        together.update(prediction, target)
    first, second, third = (ConfusionMatrix(3).update(*pair) for pair in pairs)
    assert np.array_equal((first + second + third).counts, together.counts)
    assert np.array_equal(ConfusionMatrix(3, counts=together.counts).counts, together.counts)
    assert first.counts.sum() == 50, "merging leaves the parts"


@pytest.mark.parametrize("make", [torch.from_numpy, np.asfortranarray, lambda a: a[::-1][::-1]])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.int64])
def test_arrays_and_tensors_of_any_integer_type(make: Callable, dtype: type) -> None:
    rng = np.random.default_rng(1)
    prediction, target = rng.integers(0, 3, (2, 6, 7)).astype(dtype)
    target[0] = 255
    counts = ConfusionMatrix(3).update(make(prediction), make(target)).counts
    assert np.array_equal(counts, naive_counts(prediction, target, 3, 255))


def test_more_classes_than_a_byte_holds() -> None:
    rng = np.random.default_rng(2)
    prediction, target = rng.integers(0, 1000, (2, 5000)).astype(np.uint16)
    target[:10] = 65535
    counts = ConfusionMatrix(1000, 65535).update(prediction, target).counts
    assert np.array_equal(counts, naive_counts(prediction, target, 1000, 65535))


def test_nothing_labelled_gives_nan_not_an_error() -> None:
    scores = ConfusionMatrix(2).update(np.zeros(3, int), np.full(3, 255)).compute()
    assert all(map(math.isnan, (scores.miou, scores.pixel_accuracy, scores.mean_accuracy, *scores.iou)))
    assert math.isnan(scores.frequency_weighted_iou)
    assert scores.present == (False, False)


def test_the_baseline_answers_the_majority_class_of_training() -> None:
    counts = np.array([[50, 10, 0], [10, 20, 0], [0, 0, 10]])
    scores = majority_baseline(np.array([5, 90, 5]), counts)
    assert scores.iou == (0.0, 30 / 100, 0.0)
    assert scores.miou == pytest.approx(0.1)
    assert scores.pixel_accuracy == pytest.approx(0.3)
    assert majority_baseline(np.array([5, 90, 5]), np.array([60, 30, 10])) == scores


def test_dice_and_images_by_themselves() -> None:
    counts = np.array([[[3, 1, 0], [0, 2, 0], [0, 0, 0]], [[0, 0, 0], [4, 0, 0], [0, 0, 0]]])
    first, second = per_image_scores(counts)
    assert str(first) == str(ConfusionMatrix(3, counts=counts[0]).compute())  # NaN differs from itself
    assert second.miou == 0
    dice = dice_from_counts(counts[0])
    np.testing.assert_allclose(dice, [6 / 7, 4 / 5, nan])
    np.testing.assert_allclose(dice, [2 * iou / (1 + iou) for iou in first.iou])


def test_faults_are_named() -> None:
    with pytest.raises(UsageError, match=r"^a confusion matrix needs at least 1 class, got 0$"):
        ConfusionMatrix(0)
    with pytest.raises(ShapeError, match=r"^counts must be \(2, 2\), got \(3, 3\)$"):
        ConfusionMatrix(2, counts=np.zeros((3, 3), int))
    expected = (
        "confusion matrices to merge must agree in classes and ignore_index, got 2 and 3 classes, "
        "ignore_index 255 and 0"
    )
    with pytest.raises(UsageError, match=f"^{re.escape(expected)}$"):
        ConfusionMatrix(2) + ConfusionMatrix(3, 0)
    with pytest.raises(ShapeError, match=r"^prediction and target must have one shape, got \(2,\) and \(3,\)"):
        ConfusionMatrix(2).update(np.zeros(2, int), np.zeros(3, int))
    with pytest.raises(ShapeError, match="prediction"):
        ConfusionMatrix(2).update(np.array([2]), np.array([0]))
    with pytest.raises(ShapeError, match="target"):
        ConfusionMatrix(2).update(np.array([0]), np.array([7]))
    ConfusionMatrix(2).update(np.array([9]), np.array([255]))  # anything may stand under an ignored pixel


@pytest.mark.parametrize(
    ("dtype", "ignore_index"),
    [(np.uint8, 255), (np.uint8, 3), (np.uint16, 65535), (np.int16, 255), (np.int16, -1), (np.int64, -100)],
)
def test_large_maps_are_counted_by_compiled_code_alike(dtype: type, ignore_index: int) -> None:
    rng = np.random.default_rng(3)
    prediction, target = rng.integers(0, 3, (2, 300, 301))
    dropped = rng.random(target.shape) < 0.1
    target[dropped] = ignore_index
    prediction[dropped] = 99
    counts = ConfusionMatrix(3, ignore_index).update(prediction.astype(dtype), target.astype(dtype)).counts
    assert np.array_equal(counts, naive_counts(prediction, target, 3, ignore_index))


@pytest.mark.parametrize(
    ("prediction", "target", "text"),
    [
        (7, 0, "prediction must hold classes 0..2, got values from 0 to 7"),
        (-1, 0, "prediction must hold classes 0..2, got values from -1 to 0"),
        (0, 3, "target must hold classes 0..2 or 255 (ignored), got values from 0 to 3"),
        (0, -2, "target must hold classes 0..2 or 255 (ignored), got values from -2 to 0"),
    ],
)
@pytest.mark.parametrize("size", [10, 100_000])
def test_a_value_out_of_range_is_named(prediction: int, target: int, text: str, size: int) -> None:
    predictions, targets = np.zeros((2, size), int)
    predictions[5], targets[5] = prediction, target
    matrix = ConfusionMatrix(3)
    with pytest.raises(ShapeError, match=f"^{re.escape(text)}$"):
        matrix.update(predictions, targets)
    assert matrix.counts.sum() == 0


def test_scores_in_place_of_labels_are_refused() -> None:
    expected = "prediction must hold integer labels, got torch.float64; take the argmax of scores first"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        ConfusionMatrix(2).update(np.zeros(3), np.zeros(3, int))


def test_many_classes_are_counted_fast() -> None:
    rng = np.random.default_rng(0)
    prediction, target = torch.from_numpy(rng.integers(0, 150, (2, 4, 512, 512)).astype(np.int64))
    matrix = ConfusionMatrix(150)
    matrix.update(prediction, target)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        matrix.update(prediction, target)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1  # seconds; the measured figure stands in the benchmarks
