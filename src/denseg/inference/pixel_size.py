# SPDX-License-Identifier: Apache-2.0
"""How large a pixel of a TIFF is in the world, as GeoTIFF, OME-TIFF and ImageJ say it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import tifffile

from denseg.data.reading.windows import is_tiff
from denseg.inference.regions import PixelSize

__all__ = ["read_pixel_size"]

SCALE, TIES, KEYS = 33550, 33922, 34735
MODEL_TYPE, LINEAR_UNITS = 1024, 3076
LINEAR = {9001: "m", 9002: "ft", 9003: "US ft"}
"""EPSG codes of units of length."""


def read_pixel_size(path: Path, *, page: int = 0) -> PixelSize | None:
    """Read the size of a pixel.

    Args:
        path: A picture.
        page: Which page of a TIFF.

    Returns:
        The size; ``None`` where the file does not say it.
    """
    if not is_tiff(path):
        return None
    try:
        with tifffile.TiffFile(path) as file:
            found_page: Any = file.pages[page]
            tags = found_page.tags
            found = _geo({code: tags[code].value for code in (SCALE, TIES, KEYS) if code in tags})
            if found is None and file.is_ome:
                found = _ome(str(file.ome_metadata))
            if found is None and file.is_imagej and file.imagej_metadata:
                found = _imagej(dict(file.imagej_metadata), tags)
    except (tifffile.TiffFileError, OSError, ValueError, KeyError, IndexError, TypeError, ZeroDivisionError):
        return None  # a size that cannot be read is a size that is not said
    return found if found is not None and min(found.width, found.height) > 0 else None


def _geo(tags: dict[int, Any]) -> PixelSize | None:
    if SCALE not in tags:
        return None
    width, height = (float(value) for value in tags[SCALE][:2])
    keys = [int(value) for value in tags.get(KEYS, ())]
    said = {keys[i]: keys[i + 3] for i in range(4, len(keys) - 3, 4)}
    unit = "degree" if said.get(MODEL_TYPE) == 2 else LINEAR.get(said.get(LINEAR_UNITS, 9001), "unit")
    ties = [float(value) for value in tags.get(TIES, ())]
    if len(ties) < 6:
        return PixelSize(width, height, unit)
    column, row, _, x, y, _ = ties[:6]
    return PixelSize(width, height, unit, x - column * width, y + row * height)


def _ome(text: str) -> PixelSize | None:
    sizes = [re.search(rf'PhysicalSize{axis}="([^"]+)"', text) for axis in "XY"]
    if sizes[0] is None or sizes[1] is None:
        return None
    unit = re.search(r'PhysicalSizeXUnit="([^"]+)"', text)
    return PixelSize(
        float(sizes[0].group(1)), float(sizes[1].group(1)), "um" if unit is None else _plain(unit.group(1))
    )


def _imagej(metadata: dict[str, Any], tags: Any) -> PixelSize | None:
    unit = str(metadata.get("unit", ""))
    if not unit or unit in {"pixel", "pixels"} or 282 not in tags or 283 not in tags:
        return None
    across, down = (tags[code].value for code in (282, 283))  # pixels per unit, as fractions
    return PixelSize(across[1] / across[0], down[1] / down[0], _plain(unit))


def _plain(unit: str) -> str:
    """Write micrometres in one way."""
    unit = unit.encode("ascii", "backslashreplace").decode().replace("\\u00B5", "u")
    return "um" if unit.lower() in {"\\xb5m", "\\u00b5m", "\\u03bcm", "micron", "microns", "um"} else unit
