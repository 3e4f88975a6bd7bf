# SPDX-License-Identifier: Apache-2.0
"""Per-class results and the confusion matrix, from the counts of an evaluation.

Shape letters: K classes. Counts are ``(K, K)``, rows truth, columns prediction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from denseg.report.charts import sparkline
from denseg.report.history import History
from denseg.report.numbers import share

__all__ = ["Cell", "ClassRow", "Confusion", "Mistake", "class_rows", "confusion_table", "mistakes"]

_WIDE = 14  # classes; more take the page's full width, and leave no room for those that do not occur
_LARGEST_MATRIX = 32  # classes; a larger table is neither read nor small


@dataclass(frozen=True)
class ClassRow:
    """One class of the per-class table.

    Attributes:
        index: Place in the class table.
        name: Its name.
        color: Its colour as ``#rrggbb``.
        iou: Intersection over union, ``None`` where the class occurs neither in truth nor in prediction.
        interval: Interval of the IoU where the evaluation has one.
        recall: Share of the class's pixels that were found.
        precision: Share of the pixels called so that are so.
        pixels: Pixels of the class in the truth.
        share: Its part of all labelled pixels.
        taken_for: Name of the class it is most often taken for, empty where it never is.
        taken_share: Part of its pixels taken for that class.
        spark: SVG path of its validation IoU over the epochs.
    """

    index: int
    name: str
    color: str
    iou: float | None
    interval: tuple[float, float] | None
    recall: float | None
    precision: float | None
    pixels: int
    share: float
    taken_for: str
    taken_share: float
    spark: str


@dataclass(frozen=True)
class Mistake:
    """One kind of error: pixels of ``truth`` called ``prediction``."""

    truth: str
    prediction: str
    pixels: int
    share_of_truth: float
    share_of_errors: float


@dataclass(frozen=True)
class Cell:
    """One cell: its count, its part of the row, whether it lies on the diagonal, and what it says in one line."""

    pixels: int
    share: float | None
    hit: bool
    title: str

    @property
    def text(self) -> str:
        """The part of the row in whole percent; a point for less than half a percent, nothing for none."""
        if not self.share:
            return ""
        return "·" if self.share < 0.005 else f"{100 * self.share:.0f}"

    @property
    def tint(self) -> str:
        """Strength of the cell's colour in percent; errors rise faster, so that few wrong pixels are seen too."""
        part = self.share or 0.0
        return f"{100 * (part if self.hit else min(1.0, 1.1 * part**0.5)):.1f}"


@dataclass(frozen=True)
class Confusion:
    """The matrix as it is shown.

    Attributes:
        names: Classes shown, in order; the last may stand for all others.
        colors: Their colours; empty text for the others.
        rows: One row of cells per class shown.
        left_out: How many classes are summed up in the last row and column; 0 where none are.
        absent: How many classes are left out because they occur neither in truth nor in prediction.
    """

    names: tuple[str, ...]
    colors: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left_out: int
    absent: int

    @property
    def wide(self) -> bool:
        """Whether the matrix needs the full width of the page."""
        return len(self.names) > _WIDE

    @property
    def cell(self) -> float:
        """Side of a cell in rem: few classes leave room for large ones."""
        return (
            4.75
            if len(self.names) <= 4
            else 3.25
            if len(self.names) <= 8
            else 2.625
            if len(self.names) <= _WIDE
            else 1.875
        )


def class_rows(evaluation: Mapping[str, Any], history: History) -> tuple[ClassRow, ...]:
    """Describe each class of an evaluation.

    Args:
        evaluation: Content of ``evaluation/<split>.json``.
        history: The training, for the curve of each class.

    Returns:
        One row per class, in the order of the class table.
    """
    counts: list[list[int]] = evaluation["confusion"]
    total = sum(map(sum, counts)) or 1
    columns = [sum(column) for column in zip(*counts, strict=True)]
    rows = []
    for index, entry in enumerate(evaluation["classes"]):
        row = counts[index]
        truth, hits = sum(row), row[index]
        wrong, other = max(((pixels, -at) for at, pixels in enumerate(row) if at != index), default=(0, 0))
        interval = entry.get("interval")
        rows.append(
            ClassRow(
                index=index,
                name=entry["name"],
                color=hex_color(entry["color"]),
                iou=entry["iou"],
                interval=(interval[0], interval[1]) if interval else None,
                recall=hits / truth if truth else None,
                precision=hits / columns[index] if columns[index] else None,
                pixels=truth,
                share=truth / total,
                taken_for=evaluation["classes"][-other]["name"] if wrong else "",
                taken_share=wrong / truth if truth else 0.0,
                spark=sparkline(history.class_values(entry["name"])),
            )
        )
    return tuple(rows)


def mistakes(evaluation: Mapping[str, Any], *, most: int = 8) -> tuple[Mistake, ...]:
    """List the most frequent kinds of error.

    Args:
        evaluation: Content of ``evaluation/<split>.json``.
        most: How many at most.

    Returns:
        The kinds, most pixels first.
    """
    counts: list[list[int]] = evaluation["confusion"]
    names = [entry["name"] for entry in evaluation["classes"]]
    errors = sum(map(sum, counts)) - sum(row[index] for index, row in enumerate(counts))
    kinds = [
        Mistake(names[truth], names[called], pixels, pixels / sum(row), pixels / errors)
        for truth, row in enumerate(counts)
        for called, pixels in enumerate(row)
        if truth != called and pixels
    ]
    return tuple(sorted(kinds, key=lambda kind: -kind.pixels)[:most])


def confusion_table(evaluation: Mapping[str, Any], *, largest: int = _LARGEST_MATRIX) -> Confusion:
    """Lay out the confusion matrix; of many classes, those with the most errors and the rest as one.

    Args:
        evaluation: Content of ``evaluation/<split>.json``.
        largest: Most classes shown.

    Returns:
        The matrix, each cell with its count and its part of the row.
    """
    counts: list[list[int]] = evaluation["confusion"]
    names = [entry["name"] for entry in evaluation["classes"]]
    colors = [hex_color(entry["color"]) for entry in evaluation["classes"]]
    columns = [sum(column) for column in zip(*counts, strict=True)]
    there = [at for at, row in enumerate(counts) if len(names) <= _WIDE or any(row) or columns[at]]
    groups = [[at] for at in there]
    left_out = 0
    if len(there) > largest:
        wrong = {at: sum(counts[at]) + columns[at] - 2 * counts[at][at] for at in there}
        shown = sorted(sorted(there, key=lambda at: -wrong[at])[: largest - 1])
        groups = [[at] for at in shown] + [[at for at in there if at not in shown]]
        left_out = len(groups[-1])
    titles = [names[group[0]] for group in groups]
    tints = [colors[group[0]] for group in groups]
    if left_out:
        titles[-1], tints[-1] = f"{left_out} others", ""
    rows = []
    for at, group in enumerate(groups):
        cells = [sum(counts[truth][called] for truth in group for called in into) for into in groups]
        total = sum(cells)
        rows.append(
            tuple(
                Cell(
                    pixels,
                    pixels / total if total else None,
                    at == to,
                    _cell_words(titles[at], titles[to], pixels, total),
                )
                for to, pixels in enumerate(cells)
            )
        )
    return Confusion(tuple(titles), tuple(tints), tuple(rows), left_out, len(names) - len(there))


def _cell_words(truth: str, called: str, pixels: int, total: int) -> str:
    what = f"{truth} found" if truth == called else f"{truth} taken for {called}"
    return f"{what}: {pixels:,} pixels" + (f", {share(pixels / total)} of all true {truth}" if total else "")


def hex_color(color: Sequence[int]) -> str:
    """Write a colour of three values in 0..255 as ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*color[:3])
