# SPDX-License-Identifier: Apache-2.0
"""The two tables of a run folder, as CSV: which image went where, and one row of numbers per epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from denseg.errors import RunError

__all__ = ["MetricRow", "MetricValue", "SplitRow", "format_rows", "metric_columns", "parse_metrics", "parse_split"]

MetricValue = float | int | str | None
MetricRow = dict[str, MetricValue]

_METRICS = (
    "stage",
    "epoch",
    "step",
    "images",
    "seconds",
    "images_per_second",
    "learning_rate",
    "loss",
    "val_loss",
    "val_miou",
    "val_pixel_accuracy",
    "val_mean_accuracy",
)


class SplitRow(NamedTuple):
    """One image of the split manifest.

    Attributes:
        stem: The name that pairs image and mask, and names its prediction.
        image: Path of the image; relative to the data folder, with ``/``, where it lies inside.
        mask: Path of the mask, likewise.
        split: ``train``, ``val`` or ``test``.
        sha256: 64 hexadecimal digits over the bytes of the image and its mask.
        image_page: Page of a multi-page TIFF.
        mask_page: Page of a multi-page TIFF, or id of the image in an annotation file.
        window: ``top,left,height,width`` in pixels of a part of a large raster; empty for the whole image.
    """

    stem: str
    image: str
    mask: str
    split: str
    sha256: str
    image_page: int = 0
    mask_page: int = 0
    window: str = ""


def metric_columns(class_names: Sequence[str]) -> tuple[str, ...]:
    """List the columns of ``metrics.csv``.

    Args:
        class_names: Names of the classes, index order.

    Returns:
        The column names; the validation IoU of class NAME is ``iou/NAME``.
    """
    return (*_METRICS, *(f"iou/{name}" for name in class_names))


def format_rows(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """Write rows as CSV text with a header line.

    Args:
        columns: The columns, in order.
        rows: One mapping per row; a missing key or ``None`` is an empty cell.

    Returns:
        The text, lines ended by a newline.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return buffer.getvalue()


def parse_metrics(text: str) -> list[MetricRow]:
    """Read the text of ``metrics.csv``.

    Args:
        text: CSV with a header line.

    Returns:
        One mapping per complete row; an empty cell is ``None``, a number is a number.
    """
    return [
        {key: _number(key, value) for key, value in row.items() if key is not None}
        for row in csv.DictReader(io.StringIO(text))
    ]


def parse_split(text: str) -> list[SplitRow]:
    """Read the text of ``split.csv``.

    Args:
        text: CSV with the columns of :class:`SplitRow`.

    Returns:
        The rows, in order.

    Raises:
        RunError: A column is missing, or a row has too few cells.
    """
    reader = csv.DictReader(io.StringIO(text))
    known = reader.fieldnames or ()
    fields = [field for field in SplitRow._fields if field in known]  # older runs know no pages and no windows
    missing = [field for field in SplitRow._fields if field not in (*fields, *SplitRow._field_defaults)]
    if missing:
        raise RunError(f"column {missing[0]} is missing")
    rows = []
    for row in reader:
        if None in row.values():
            raise RunError(f"line {reader.line_num} is cut short")
        cells: dict[str, Any] = {field: row[field] for field in fields}
        try:
            cells |= {field: int(cells[field]) for field in ("image_page", "mask_page") if field in cells}
        except ValueError as error:
            raise RunError(f"line {reader.line_num} holds a page that is no number") from error
        rows.append(SplitRow(**cells))
    return rows


def _cell(value: object) -> object:
    return "" if value is None else repr(value) if isinstance(value, float) else value


def _number(key: str, value: str | None) -> MetricValue:
    if value is None or value == "":
        return None
    if key == "stage":
        return value
    try:
        return int(value)
    except ValueError:
        pass
    try:
        return float(value)
    except ValueError:
        return value
