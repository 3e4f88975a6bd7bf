# SPDX-License-Identifier: Apache-2.0
"""Scores as other projects print them: against their formulas written out pixel by pixel, and by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest

from denseg.errors import ShapeError, UsageError
from denseg.metrics import ConfusionMatrix, scores_by_convention, scores_from_counts

# Class 2 is neither true nor predicted, class 3 only predicted.
COUNTS = np.array([[6, 2, 0, 0], [1, 3, 0, 4], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_by_hand() -> None:
    iou = [6 / 9, 3 / 10, 0 / 4]
    assert scores_by_convention(COUNTS, "denseg")["miou"] == pytest.approx(sum(iou) / 3)
    assert scores_by_convention(COUNTS, "fcn") == scores_by_convention(COUNTS, "denseg")
    assert scores_by_convention(COUNTS, "fcn_paper")["miou"] == pytest.approx(sum(iou) / 4)
    assert scores_by_convention(COUNTS, "fcn_paper")["mean_accuracy"] == pytest.approx((6 / 8 + 3 / 8) / 4)
    assert scores_by_convention(COUNTS, "labelled")["miou"] == pytest.approx((iou[0] + iou[1]) / 2)
    mmseg = scores_by_convention(COUNTS, "mmseg")
    precision = [6 / 7, 3 / 5, 0 / 4]
    recall = [6 / 8, 3 / 8]
    f_score = [2 * precision[k] * recall[k] / (precision[k] + recall[k]) for k in (0, 1)]
    assert mmseg == {
        "aAcc": round(100 * 9 / 16, 2),
        "mIoU": round(100 * sum(iou) / 3, 2),
        "mAcc": round(100 * sum(recall) / 2, 2),
        "mDice": round(100 * (12 / 15 + 6 / 13 + 0) / 3, 2),
        "mPrecision": round(100 * sum(precision) / 3, 2),
        "mRecall": round(100 * sum(recall) / 2, 2),
        "mFscore": round(100 * sum(f_score) / 2, 2),
    }


@pytest.mark.parametrize("seed", range(5))
def test_mmseg_means_are_ours_in_percent(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 500, (7, 7)) * (rng.random((7, 7)) < 0.5)
    counts[3], counts[:, 3] = 0, 0
    ours, theirs = scores_from_counts(counts), scores_by_convention(counts, "mmseg")
    pairs = [("mIoU", ours.miou), ("aAcc", ours.pixel_accuracy), ("mAcc", ours.mean_accuracy)]
    for name, value in pairs:
        assert theirs[name] == pytest.approx(100 * value, abs=0.0051)


def test_fcn_histogram_leaves_out_what_is_no_class() -> None:
    rng = np.random.default_rng(0)
    target, prediction = rng.integers(-1, 9, (2, 40, 30))
    prediction = prediction.clip(0, 4)
    known = (target >= 0) & (target < 5)
    expected = np.bincount(5 * target[known] + prediction[known], minlength=25).reshape(5, 5)
    matrix = ConfusionMatrix(5, unknown="drop").update(prediction, target)
    assert np.array_equal(matrix.counts, expected)
    with np.errstate(invalid="ignore"):
        iu = np.diag(expected) / (expected.sum(1) + expected.sum(0) - np.diag(expected))
    scores = matrix.compute_as("fcn")
    assert scores["miou"] == pytest.approx(np.nanmean(iu))
    share = expected.sum(1) / expected.sum()
    assert scores["frequency_weighted_iou"] == pytest.approx((share[share > 0] * iu[share > 0]).sum())
    again = (matrix + matrix).update(prediction, target)
    assert np.array_equal(again.counts, 3 * expected), "a sum drops them too"


def test_nothing_labelled_is_nan() -> None:
    empty = np.zeros((2, 2), dtype=int)
    assert all(np.isnan(value) for value in scores_by_convention(empty, "mmseg").values())
    assert np.isnan(scores_by_convention(empty)["miou"])


def test_faults_are_named() -> None:
    message = "a convention is one of denseg, mmseg, fcn, fcn_paper, labelled; got 'voc'"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        scores_by_convention(COUNTS, "voc")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"^counts must be \(K, K\), got \(4,\)$"):
        scores_by_convention(COUNTS[0])
    with pytest.raises(UsageError, match=r"^unknown is 'refuse' or 'drop', got 'keep'$"):
        ConfusionMatrix(2, unknown="keep")  # type: ignore[arg-type]
    with pytest.raises(ShapeError):
        ConfusionMatrix(2).update(np.array([0]), np.array([7]))
