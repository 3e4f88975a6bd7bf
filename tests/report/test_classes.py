# SPDX-License-Identifier: Apache-2.0
"""Per-class rows, mistakes and the confusion matrix, against counts worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from denseg.report.classes import class_rows, confusion_table, hex_color, mistakes
from denseg.report.history import read_history


def evaluation(confusion: list[list[int]], **interval: Any) -> dict[str, Any]:
    names = "abcdefghijklmnopqrstuvwxyz"
    return {
        "confusion": confusion,
        "classes": [
            {
                "name": names[index % 26] * (1 + index // 26),
                "color": [index, 0, 255],
                "iou": 0.5,
                "accuracy": 0.5,
                "pixels": sum(row),
            }
            | interval
            for index, row in enumerate(confusion)
        ],
    }


# truth a: 6 right, 2 called b, 2 called c; truth b: 5 right, 5 called a; truth c: nothing there
COUNTS = [[6, 2, 2], [5, 5, 0], [0, 0, 0]]


def test_rows() -> None:
    history = read_history([{"epoch": 1, "iou/a": 0.0}, {"epoch": 2, "iou/a": 1.0}])
    a, b, c = class_rows(evaluation(COUNTS), history)
    assert (a.recall, a.precision, a.share, a.taken_for, a.taken_share) == (0.6, 6 / 11, 0.5, "b", 0.2)
    assert (b.recall, b.precision, b.taken_for, b.taken_share) == (0.5, 5 / 7, "a", 0.5)
    assert (c.recall, c.precision, c.pixels, c.taken_for) == (None, 0.0, 0, "")
    assert (a.color, c.color) == ("#0000ff", "#0200ff")
    assert a.spark == "M0 100L100 0"
    assert b.spark == ""
    assert a.interval is None


def test_rows_take_intervals_where_there_are_some() -> None:
    rows = class_rows(evaluation(COUNTS, interval=[0.4, 0.6]), read_history([]))
    assert rows[0].interval == (0.4, 0.6)


def test_mistakes_are_ranked_by_pixels() -> None:
    found = mistakes(evaluation(COUNTS))
    assert [(kind.truth, kind.prediction, kind.pixels) for kind in found] == [
        ("b", "a", 5),
        ("a", "b", 2),
        ("a", "c", 2),
    ]
    assert found[0].share_of_truth == 0.5
    assert found[0].share_of_errors == pytest.approx(5 / 9)
    assert len(mistakes(evaluation(COUNTS), most=1)) == 1
    assert mistakes(evaluation([[4, 0], [0, 4]])) == ()


def test_matrix_cells() -> None:
    table = confusion_table(evaluation(COUNTS))
    assert table.names == ("a", "b", "c")
    assert [[cell.text for cell in row] for row in table.rows] == [["60", "20", "20"], ["50", "50", ""], ["", "", ""]]
    assert [cell.hit for cell in table.rows[1]] == [False, True, False]
    assert table.rows[0][0].title == "a found: 6 pixels, 60% of all true a"
    assert table.rows[1][0].title == "b taken for a: 5 pixels, 50% of all true b"
    assert table.rows[2][0].title == "c taken for a: 0 pixels"
    assert table.left_out == 0


def test_a_trace_of_confusion_is_told_from_none() -> None:
    row = confusion_table(evaluation([[9_999, 1], [0, 1]])).rows[0]
    assert row[1].text == "·"
    assert float(row[1].tint) > 0


def test_of_many_classes_the_worst_stay_and_the_rest_is_summed() -> None:
    size = 40
    counts = [[0] * size for _ in range(size)]
    for index in range(size):
        counts[index][index] = 100
    counts[7][9] = 50
    counts[30][31] = 20
    table = confusion_table(evaluation(counts), largest=5)
    assert len(table.names) == 5
    assert table.left_out == 36
    assert table.names[-1] == "36 others"
    assert {"h", "j", "ee", "ff"} == set(table.names[:-1])
    assert sum(cell.pixels for row in table.rows for cell in row) == 100 * size + 70
    assert table.rows[-1][-1].pixels == 3600


def test_of_many_classes_those_that_do_not_occur_are_left_out() -> None:
    counts = [[0] * 20 for _ in range(20)]
    counts[3][3], counts[3][11] = 5, 1
    table = confusion_table(evaluation(counts))
    assert (table.names, table.absent, table.left_out) == (("d", "l"), 18, 0)
    assert not table.wide
    few = confusion_table(evaluation([[1, 0], [0, 0]]))
    assert (few.names, few.absent) == (("a", "b"), 0)


def test_hex_color() -> None:
    assert hex_color([255, 0, 16]) == "#ff0010"
