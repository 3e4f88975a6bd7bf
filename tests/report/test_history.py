# SPDX-License-Identifier: Apache-2.0
"""Rows of metrics.csv as series."""

from __future__ import annotations

from denseg.report.history import history_charts, read_history


def test_series_keep_gaps_and_text_numbers() -> None:
    history = read_history(
        [
            {"stage": "train", "epoch": 1, "loss": "0.5", "val_miou": None, "seconds": 2},
            {"stage": "train", "epoch": 2, "loss": float("nan"), "val_miou": 0.3, "seconds": 3.5},
            {"stage": "train", "epoch": 3, "loss": "x", "val_miou": 0.3, "seconds": None},
        ]
    )
    assert history.values("loss") == (0.5, None, None)
    assert history.values("absent") == (None, None, None)
    assert history.best == 1  # the first of equals
    assert history.total("seconds") == 5.5
    assert history.epochs == (1, 2, 3)


def test_epochs_that_start_again_in_each_stage_are_counted_through() -> None:
    history = read_history(
        [{"stage": s, "epoch": e, "loss": 1.0} for s, e in (("front", 1), ("front", 2), ("context", 1))]
    )
    assert history.epochs == (1, 2, 3)
    loss = history_charts(history)[0]
    assert [(mark.label, mark.x) for mark in loss.marks] == [("context", 100.0)]


def test_nothing_trained_is_nothing_drawn() -> None:
    history = read_history([])
    assert (len(history), history.best, history_charts(history)) == (0, None, ())


def test_charts_mark_best_and_baseline() -> None:
    history = read_history(
        [{"epoch": e, "val_miou": m, "loss": 1 / e, "learning_rate": 0.01} for e, m in ((1, 0.2), (2, 0.6), (3, 0.4))]
    )
    charts = {chart.key: chart for chart in history_charts(history, baseline=0.1)}
    assert list(charts) == ["score", "loss", "learning-rate"]
    assert [(mark.label, mark.x, mark.y) for mark in charts["score"].marks] == [
        ("best", 50.0, 100.0),
        ("baseline", None, 16.667),
    ]
    assert [line.name for line in charts["score"].lines] == ["mIoU"]
    assert charts["learning-rate"].lines[0].values == ("0.01", "0.01", "0.01")
