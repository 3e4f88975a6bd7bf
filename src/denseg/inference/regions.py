# SPDX-License-Identifier: Apache-2.0
"""Regions of a labelled picture as a table: class, area, perimeter and place, in pixels and in the world's units.

Letters: H and W height and width in pixels, N regions.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from denseg.errors import UsageError
from denseg.files import make_folder, write_atomic
from denseg.inference.postprocess import EIGHT

__all__ = ["PixelSize", "Region", "find_regions", "write_regions"]

Array = npt.NDArray[Any]


class PixelSize(NamedTuple):
    """How large a pixel is, and where the picture lies.

    Attributes:
        width: Of a pixel, in ``unit``.
        height: Of a pixel, in ``unit``.
        unit: For example ``m`` or ``um``.
        left: Place of the picture's upper left corner, where it is known.
        top: Likewise; rows go down from here.
    """

    width: float
    height: float
    unit: str
    left: float | None = None
    top: float | None = None


@dataclass(frozen=True)
class Region:
    """One connected region of one class (or one instance).

    Attributes:
        label: The class.
        row: Of the centroid, pixels from the top.
        column: Of the centroid, pixels from the left.
        area: Pixels.
        perimeter: Pixels, along the border; a straight or diagonal border has its true length (Crofton's formula).
        box: First row, first column, row and column after the last.
    """

    label: int
    row: float
    column: float
    area: int
    perimeter: float
    box: tuple[int, int, int, int]


def find_regions(labels: Array, *, background: int | None = 0, instances: Array | None = None) -> list[Region]:
    """Measure the connected regions of every class.

    Args:
        labels: ``(H, W)``.
        background: A class whose regions are of no interest; ``None`` for none.
        instances: ``(H, W)``, objects told apart (0 none); they count instead of connected regions where they are.

    Returns:
        The regions, by class and from top to bottom.
    """
    from scipy import ndimage
    from skimage.measure import regionprops

    regions = []
    for value in (int(value) for value in np.unique(labels)):
        if value == background:
            continue
        mask = labels == value
        parts = ndimage.label(mask, structure=EIGHT)[0]
        if instances is not None and bool((instances[mask] > 0).any()):
            parts = np.where(mask, instances, 0)
        for found in regionprops(parts):  # type: ignore[no-untyped-call]
            row, column = found.centroid
            regions.append(
                Region(value, float(row), float(column), int(found.area), float(found.perimeter_crofton), found.bbox)
            )
    return regions


def write_regions(
    path: Path, pictures: Sequence[tuple[str, Sequence[Region], PixelSize | None]], names: Sequence[str]
) -> None:
    """Write all regions as one table.

    Args:
        path: ``.csv`` for a table, ``.geojson`` for boxes on a map (in pixels where the place is not known).
        pictures: Name, regions and size of a pixel, per picture.
        names: Of the classes.

    Raises:
        UsageError: The path ends with something else.
    """
    kind = path.suffix.lower()
    if kind not in {".csv", ".geojson"}:
        raise UsageError(f"--regions writes .csv or .geojson, got {path.name}")
    make_folder(path.parent)
    rows = [row for name, regions, size in pictures for row in _rows(name, regions, size, names)]
    if kind == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: row[key] for key in _COLUMNS} for row in rows)
        write_atomic(path, text.getvalue())
        return
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [row["ring"]]},
            "properties": {key: row[key] if row[key] != "" else None for key in _COLUMNS},
        }
        for row in rows
    ]
    write_atomic(path, json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False) + "\n")


_COLUMNS = (
    "image", "region", "class", "area_pixels", "perimeter_pixels", "row", "column", "top", "left", "bottom", "right",
    "area", "perimeter", "unit",
)  # fmt: skip


def _rows(
    name: str, regions: Sequence[Region], size: PixelSize | None, names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    for number, region in enumerate(regions, start=1):
        top, left, bottom, right = region.box
        corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
        if size is not None and size.left is not None and size.top is not None:
            corners = [(size.left + x * size.width, size.top - y * size.height) for x, y in corners]  # type: ignore[misc]
        side = 0.0 if size is None else (size.width * size.height) ** 0.5
        yield {
            "image": name,
            "region": number,
            "class": names[region.label],
            "area_pixels": region.area,
            "perimeter_pixels": round(region.perimeter, 2),
            "row": round(region.row, 2),
            "column": round(region.column, 2),
            "top": top,
            "left": left,
            "bottom": bottom,
            "right": right,
            "area": "" if size is None else float(f"{region.area * size.width * size.height:.6g}"),
            "perimeter": "" if size is None else float(f"{region.perimeter * side:.6g}"),
            "unit": "" if size is None else size.unit,
            "ring": [list(corner) for corner in corners],
        }
