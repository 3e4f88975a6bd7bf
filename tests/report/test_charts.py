# SPDX-License-Identifier: Apache-2.0
"""Where the charts put things."""

from __future__ import annotations

import re

import pytest

from denseg.report.charts import line_chart, sparkline, strip


def places(path: str) -> list[tuple[str, float, float]]:
    return [(verb, float(x), float(y)) for verb, x, y in re.findall(r"([ML])(\S+) ([^ML]+)", path)]


def test_a_line_runs_from_corner_to_corner() -> None:
    chart = line_chart("k", "Title", [1, 2, 3], [("mIoU", [0.0, 0.5, 1.0])])
    assert chart is not None
    assert places(chart.lines[0].path) == [("M", 0, 100), ("L", 50, 50), ("L", 100, 0)]
    assert chart.lines[0].dots == ((0, 0), (50, 50), (100, 100))
    assert [tick.label for tick in chart.y.ticks] == ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert [(tick.at, tick.label) for tick in chart.x.ticks] == [(0, "1"), (50, "2"), (100, "3")]
    assert chart.summary == "mIoU: 0.000 in epoch 1, 1.000 in epoch 3"
    assert chart.labels == ("1", "2", "3")


def test_a_missing_value_leaves_a_gap() -> None:
    chart = line_chart("k", "t", [1, 2, 3, 4], [("a", [0.0, None, 1.0, float("nan")])])
    assert chart is not None
    assert [verb for verb, _, _ in places(chart.lines[0].path)] == ["M", "M"]
    assert chart.lines[0].values == ("0.000", "", "1.000", "")


def test_no_values_no_chart() -> None:
    assert line_chart("k", "t", [1, 2], [("a", [None, None])]) is None
    assert line_chart("k", "t", [], [("a", [])]) is None


def test_one_epoch_is_a_dot_in_the_middle() -> None:
    chart = line_chart("k", "t", [7], [("a", [0.4])])
    assert chart is not None
    assert chart.lines[0].dots[0][0] == 50
    assert [(tick.at, tick.label) for tick in chart.x.ticks] == [(50, "7")]
    assert chart.summary == "a: 0.400 in epoch 7"


def test_an_axis_of_epochs_has_whole_numbers_and_its_ends() -> None:
    for last in (2, 3, 7, 11, 40, 137, 90_000):
        xs = [*range(1, last + 1, max(1, last // 50)), last + 1]
        chart = line_chart("k", "t", xs, [("a", [0.5] * len(xs))])
        assert chart is not None
        assert all(re.fullmatch(r"[\d,]+", tick.label) for tick in chart.x.ticks)
        assert all(0 <= tick.at <= 100 for tick in chart.x.ticks)
        assert chart.x.ticks[0].at < 13
        assert chart.x.ticks[-1].at > 87


def test_limits_and_marks_are_inside_the_plot() -> None:
    chart = line_chart(
        "k", "t", [1, 2], [("a", [0.4, 0.5])], limits=(0.0, 0.9), marks=[("best", 2, 0.5), ("base", None, 0.05)]
    )
    assert chart is not None
    assert (chart.y.low, chart.y.high) == (0.0, 1.0)
    assert [(mark.label, mark.x, mark.y) for mark in chart.marks] == [("best", 100.0, 50.0), ("base", None, 5.0)]


def test_very_many_epochs_give_a_short_table_with_the_last_one() -> None:
    chart = line_chart("k", "t", list(range(5000)), [("a", [0.1] * 5000)])
    assert chart is not None
    assert len(chart.table) <= 201
    assert chart.table[-1] == 4999
    assert chart.lines[0].dots == ()


@pytest.mark.parametrize(
    ("values", "points"), [([0.0, 1.0], 2), ([0.5], 0), ([None, 0.5], 0), ([2.0, -1.0, 0.5], 3), ([], 0)]
)
def test_sparkline(values: list[float | None], points: int) -> None:
    path = places(sparkline(values))
    assert len(path) == points
    assert all(0 <= y <= 100 for _, _, y in path)


def test_strip_counts_every_image_once() -> None:
    values = [0.0, 0.039, 0.5, 0.51, 1.0]
    found = strip(values)
    assert found is not None
    assert sum(column[3] for column in found.columns) == len(values)
    assert found.columns[0] == (0.0, 4.0, 100.0, 2, "0.000 to 0.040")
    assert found.columns[-1][1] == 100.0
    assert (found.median, found.median_label) == (50.0, "0.500")
    assert strip([]) is None


def test_strip_spans_what_there_is() -> None:
    found = strip([0.85, 0.86, 0.87])
    assert found is not None
    assert (found.axis.low, found.axis.high) == pytest.approx((0.8, 0.92))
    assert sum(column[3] for column in found.columns) == 3
    full = strip([1.0, 1.0])
    assert full is not None
    assert full.axis.high == pytest.approx(1.0)
    assert full.columns[-1][1] == 100.0


def test_a_wide_range_of_losses_is_logarithmic() -> None:
    chart = line_chart("k", "t", [1, 2, 3], [("a", [10.0, 1.0, 0.1])], limits=(0.0, None), log=True)
    assert chart is not None
    assert chart.y.title == "logarithmic scale"
    assert [(tick.at, tick.label) for tick in chart.y.ticks if tick.label in {"0.1", "1", "10"}] == [
        (0.0, "0.1"),
        (50.0, "1"),
        (100.0, "10"),
    ]
    assert [y for _, _, y in places(chart.lines[0].path)] == [0, 50, 100]


def test_a_narrow_range_of_losses_or_a_negative_one_is_linear() -> None:
    for values in ([5.0, 1.0], [100.0, -1.0], [100.0, 0.0]):
        chart = line_chart("k", "t", [1, 2], [("a", values)], limits=(0.0, None), log=True)
        assert chart is not None
        assert not chart.y.log
        assert chart.y.title == ""
