# SPDX-License-Identifier: Apache-2.0
"""What happened during training: the rows of ``metrics.csv`` as series, and the charts made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from denseg.report.charts import Chart, line_chart
from denseg.report.numbers import learning_rate

__all__ = ["History", "history_charts", "read_history"]

Series = tuple[float | None, ...]


@dataclass(frozen=True)
class History:
    """Training, one entry per validation.

    Attributes:
        epochs: Number of each entry, counted through all stages.
        stages: Stage of each entry.
        series: Values by column name; ``None`` where the column is empty.
        best: Entry with the highest validation mIoU, ``None`` where there was no validation.
    """

    epochs: tuple[int, ...]
    stages: tuple[str, ...]
    series: Mapping[str, Series]
    best: int | None

    def __len__(self) -> int:
        return len(self.epochs)

    def values(self, column: str) -> Series:
        """Give one column; all ``None`` where there is none of that name."""
        return self.series.get(column, (None,) * len(self))

    def total(self, column: str) -> float:
        """Sum one column over its values."""
        return sum(value for value in self.values(column) if value is not None)

    def class_values(self, name: str) -> Series:
        """Give the validation IoU of one class over the epochs."""
        return self.values(f"iou/{name}")


def read_history(rows: Sequence[Mapping[str, object]]) -> History:
    """Turn rows into series.

    Args:
        rows: Rows of ``metrics.csv``, values as text or numbers.

    Returns:
        The history; empty without rows.
    """
    columns = dict.fromkeys(name for row in rows for name in row)
    series = {name: tuple(_number(row.get(name)) for row in rows) for name in columns if name != "stage"}
    given = series.get("epoch", ())
    numbered = tuple(int(value) for value in given if value is not None)
    rising = len(numbered) == len(rows) and all(a < b for a, b in pairwise(numbered))
    epochs = numbered if rising else tuple(range(1, len(rows) + 1))
    scores = series.get("val_miou", ())
    ranked = [(value, -index) for index, value in enumerate(scores) if value is not None]
    best = -max(ranked)[1] if ranked else None
    return History(epochs, tuple(str(row.get("stage") or "train") for row in rows), series, best)


def history_charts(history: History, *, baseline: float | None = None) -> tuple[Chart, ...]:
    """Lay out the curves of a training.

    Args:
        history: What happened.
        baseline: mIoU of the answer that always names the most frequent class, drawn as a line.

    Returns:
        Score, loss and learning rate, as far as there are values.
    """
    borders: list[tuple[str, float | None, float | None]] = [
        (stage, float(epoch), None)
        for before, stage, epoch in zip(history.stages, history.stages[1:], history.epochs[1:], strict=False)
        if stage != before
    ]
    score_marks = list(borders)
    if history.best is not None:
        top = history.values("val_miou")[history.best]
        score_marks.append(("best", float(history.epochs[history.best]), top))
    if baseline is not None:
        score_marks.append(("baseline", None, baseline))
    charts = (
        line_chart(
            "score",
            "Validation score",
            history.epochs,
            [
                ("mIoU", history.values("val_miou")),
                ("mean accuracy", history.values("val_mean_accuracy")),
                ("pixel accuracy", history.values("val_pixel_accuracy")),
            ],
            limits=(0.0, None),
            marks=score_marks,
        ),
        line_chart(
            "loss",
            "Loss",
            history.epochs,
            [("training", history.values("loss")), ("validation", history.values("val_loss"))],
            limits=(0.0, None),
            log=True,
            marks=borders,
        ),
        line_chart(
            "learning-rate",
            "Learning rate",
            history.epochs,
            [("learning rate", history.values("learning_rate"))],
            write=learning_rate,
            limits=(0.0, None),
            marks=borders,
        ),
    )
    return tuple(chart for chart in charts if chart is not None)


def _number(value: object) -> float | None:
    if value is None or value == "" or isinstance(value, bool):
        return None
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
