# SPDX-License-Identifier: Apache-2.0
"""How numbers are written."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from denseg.report.numbers import (
    axis_ticks,
    count,
    duration,
    learning_rate,
    log_ticks,
    plural,
    score,
    share,
    tick_label,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.6344, "0.634"), (1.0, "1.000"), (0.0, "0.000"), (None, "–"), (math.nan, "–")],  # noqa: RUF001
)
def test_score(value: float | None, text: str) -> None:
    assert score(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0%"),
        (1.0, "100%"),
        (0.344, "34%"),
        (0.034, "3.4%"),
        (0.0996, "10%"),
        (0.00001, "< 0.1%"),
        (0.99999, "> 99.9%"),
        (0.9996, "> 99.9%"),
        (0.9962, "99.6%"),
        (0.985, "98%"),
        (None, "–"),  # noqa: RUF001
        (math.inf, "–"),  # noqa: RUF001
    ],
)
def test_share(value: float | None, text: str) -> None:
    assert share(value) == text


def test_only_all_is_100_percent_and_only_nothing_is_0() -> None:
    assert share(1 - 1e-12) == "> 99.9%"
    assert share(1e-12) == "< 0.1%"


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (12345, "12,345"), (1_234_567, "1.23 M"), (17_400_000_000, "17.4 G")]
)
def test_count(value: int, text: str) -> None:
    assert count(value) == text


def test_plural() -> None:
    assert [plural(1, "image"), plural(1200, "image"), plural(2, "class", "classes")] == [
        "1 image",
        "1,200 images",
        "2 classes",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (7.25, "7.2 s"),
        (48, "48 s"),
        (59.7, "1 min"),
        (725, "12 min 5 s"),
        (3600, "1 h"),
        (12_000, "3 h 20 min"),
        (187_200, "2 d 4 h"),
        (-1, "0.0 s"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.01, "0.01"), (0.0, "0"), (0.00032, "3.2e-4"), (1e-5, "1e-5"), (0.00123, "0.00123")]
)
def test_learning_rate(value: float, text: str) -> None:
    assert learning_rate(value) == text


@given(
    st.floats(-1e6, 1e6, allow_nan=False), st.floats(-1e6, 1e6, allow_nan=False), st.integers(min_value=2, max_value=9)
)
def test_ticks_span_the_range_in_round_steps(one: float, other: float, wanted: int) -> None:
    low, high = min(one, other), max(one, other)
    ticks = axis_ticks(low, high, wanted)
    steps = {f"{b - a:.6g}" for a, b in pairwise(ticks)}
    spread = max(abs(low), abs(high), 1.0) * 1e-6
    assert ticks[0] <= low + spread
    assert ticks[-1] >= high - spread
    assert 2 <= len(ticks) <= 2 * wanted + 2
    assert len({float(step) for step in steps}) == 1 or max(map(float, steps)) / min(map(float, steps)) < 1.001


@pytest.mark.parametrize("bounds", [(math.nan, 1.0), (0.0, math.inf), (0.0, 0.0), (5.0, 5.0)])
def test_ticks_of_no_range_are_still_an_axis(bounds: tuple[float, float]) -> None:
    ticks = axis_ticks(*bounds)
    assert len(ticks) >= 2
    assert all(map(math.isfinite, ticks))


@pytest.mark.parametrize(
    ("value", "step", "text"),
    [
        (0.25, 0.05, "0.25"),
        (40, 10, "40"),
        (0.0, 0.1, "0"),
        (2e-6, 1e-6, "2e-6"),
        (0.0005, 0.0005, "0.0005"),
        (0.001, 0.0005, "0.0010"),
        (1e-17, 0.2, "0"),
        (12000, 2000, "12,000"),
    ],
)
def test_tick_label(value: float, step: float, text: str) -> None:
    assert tick_label(value, step) == text


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.13, 3.4, (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)),
        (0.1, 1.0, (0.1, 0.2, 0.5, 1.0)),
        (1.0, 1.0, (1.0, 2.0)),
        (1e-4, 50.0, (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)),
        (0.3, 0.31, (0.2, 0.5)),
    ],
)
def test_log_ticks(low: float, high: float, ticks: tuple[float, ...]) -> None:
    assert log_ticks(low, high) == pytest.approx(ticks)
