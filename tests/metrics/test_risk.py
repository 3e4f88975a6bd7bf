# SPDX-License-Identifier: Apache-2.0
"""Risk and coverage: by hand, against sorting, and for orders that are best, worst and no order."""

from __future__ import annotations

import numpy as np
import pytest

from denseg.errors import ShapeError, UsageError
from denseg.metrics import RiskCoverage


def test_by_hand() -> None:
    curve = RiskCoverage(bins=10).update([0.95, 0.91, 0.55, 0.31], [True, False, False, True]).curve()
    assert curve.coverage.tolist() == [0.5, 0.75, 1.0]
    assert curve.risk.tolist() == [1 / 2, 2 / 3, 2 / 4]
    assert curve.threshold.tolist() == [0.9, 0.5, 0.3]


def test_points_equal_sorting_by_confidence() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.permutation(np.arange(1000) / 1000 + 0.0005)  # one pixel per bin
    right = rng.random(1000) < confidence
    counted = RiskCoverage(bins=1000).update(confidence, right)
    order = np.argsort(-confidence)
    risk = (~right[order]).cumsum() / np.arange(1, 1001)
    curve = counted.curve()
    np.testing.assert_allclose(curve.risk, risk)
    np.testing.assert_allclose(curve.coverage, np.arange(1, 1001) / 1000)
    assert counted.area == pytest.approx(risk.mean(), abs=2e-3)
    halves = [RiskCoverage().update(confidence[part], right[part]) for part in (slice(400), slice(400, None))]
    assert np.array_equal((halves[0] + halves[1]).counts, counted.counts)


def test_a_confidence_that_knows_has_the_smallest_area() -> None:
    rng = np.random.default_rng(1)
    right = rng.random(5000) < 0.8
    knows, blind, misled = right * 0.5 + rng.random(5000) / 2, rng.random(5000), ~right * 0.5 + rng.random(5000) / 2
    best, none, worst = (RiskCoverage().update(confidence, right).area for confidence in (knows, blind, misled))
    assert best < 0.03 < none < worst
    assert none == pytest.approx(0.2, abs=0.03)


def test_nothing_counted_is_nan() -> None:
    empty = RiskCoverage().update([], [])
    assert np.isnan(empty.area)
    assert empty.curve().coverage.size == 0


def test_faults_are_named() -> None:
    with pytest.raises(UsageError, match=r"^a risk-coverage curve needs at least 1 bin, got 0$"):
        RiskCoverage(bins=0)
    with pytest.raises(UsageError, match=r"^risk-coverage counts to merge must agree in bins, got 5 and 6$"):
        RiskCoverage(bins=5) + RiskCoverage(bins=6)
    with pytest.raises(ShapeError, match=r"^confidence and right must have one shape, got \(2,\) and \(1,\)$"):
        RiskCoverage().update([0.5, 0.6], [True])
    with pytest.raises(ShapeError, match=r"^confidence must lie in 0..1, got values from -1 to 0.5$"):
        RiskCoverage().update([0.5, -1], [True, False])
