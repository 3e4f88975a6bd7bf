# SPDX-License-Identifier: Apache-2.0
"""Large rasters as data sets: a picture of 20,000 x 20,000 pixels becomes many pairs, each a window of both files.

Nothing is cut into files: windows are read where they lie. Windows are grouped in square blocks, so that a split that
denseg makes parts regions, not neighbours.

Letters: h and w height and width of a window in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from denseg.data.folders.description import Description
from denseg.data.folders.inventory import Pair
from denseg.data.reading.images import ImageInfo, probe_image
from denseg.errors import DataError, ImageError

__all__ = ["LARGE_PIXELS", "VECTORS", "plan_windows", "to_windows"]

LARGE_PIXELS = 50_000_000  # rasters from here on are read in windows without being asked to
WINDOW = 1024  # pixels of a side, where nothing else is said
BLOCKS = 25  # blocks that a raster is parted into, about
LOOKED_AT = 64  # TIFF files up to which the size of each is looked at
VECTORS = frozenset({".geojson", ".gpkg"})
_TIFF = frozenset({".tif", ".tiff"})
_ANY_SIZE = 2**62


def to_windows(pairs: Sequence[Pair], description: Description) -> tuple[Pair, ...]:
    """Replace pairs of large rasters by their windows.

    Args:
        pairs: As paired by name.
        description: What ``dataset.yaml`` says: ``windows``.

    Returns:
        The pairs; those of ordinary pictures as they were.

    Raises:
        DataError: A raster and its mask differ in size.
    """
    tiffs = [pair for pair in pairs if pair.image.suffix.lower() in _TIFF]
    vectors = any(pair.mask.suffix.lower() in VECTORS for pair in tiffs)
    if not tiffs or not (description.windows or vectors or len(tiffs) <= LOOKED_AT or _is_large(_probe(tiffs[0]))):
        return tuple(pairs)
    expanded: list[Pair] = []
    for pair in pairs:
        info = _probe(pair) if pair.image.suffix.lower() in _TIFF else None
        vector = pair.mask.suffix.lower() in VECTORS
        if info is None or not (description.windows or vector or _is_large(info)):
            expanded.append(pair)
            continue
        if not vector:
            _check_mask(pair, info)
        side = description.windows or WINDOW
        expanded += _windows_of(pair, info.height, info.width, side)
    return tuple(expanded)


def plan_windows(height: int, width: int, side: int) -> list[tuple[int, int, int, int]]:
    """Lay windows side by side over a raster; where the last one would be a narrow rest, all become a little larger.

    Args:
        height: Of the raster, in pixels.
        width: Of the raster, in pixels.
        side: Of a window, in pixels, about.

    Returns:
        ``(top, left, h, w)`` of each, row by row; together they hold every pixel once.
    """
    rows, columns = (_cuts(extent, side) for extent in (height, width))
    return [
        (top, left, bottom - top, right - left) for top, bottom in pairwise(rows) for left, right in pairwise(columns)
    ]


def _cuts(extent: int, side: int) -> list[int]:
    count = max(1, round(extent / side))
    return [extent * place // count for place in range(count + 1)]


def _windows_of(pair: Pair, height: int, width: int, side: int) -> list[Pair]:
    windows = plan_windows(height, width, side)
    block = max(side, round((height * width / BLOCKS) ** 0.5))
    digits = len(str(max(height, width)))
    return [
        replace(
            pair,
            stem=f"{pair.stem}_{window[0]:0{digits}d}_{window[1]:0{digits}d}",
            window=window,
            group=f"{pair.stem} block {window[0] // block + 1}, {window[1] // block + 1}",
        )
        for window in windows
    ]


def _probe(pair: Pair) -> ImageInfo | None:
    try:
        return probe_image(pair.image, page=pair.image_page, max_pixels=_ANY_SIZE)
    except ImageError:
        return None  # told when it is read


def _is_large(info: ImageInfo | None) -> bool:
    return info is not None and info.height * info.width >= LARGE_PIXELS


def _check_mask(pair: Pair, image: ImageInfo) -> None:
    mask = probe_image(pair.mask, page=pair.mask_page, max_pixels=_ANY_SIZE)
    if (mask.height, mask.width) != (image.height, image.width):
        raise DataError(
            f"{pair.mask}: the mask is {mask.width} x {mask.height} pixels, its raster {pair.image.name} is"
            f" {image.width} x {image.height}; make them equal",
            path=pair.mask,
        )
    if mask.format != "TIFF":
        raise DataError(
            f"{pair.mask}: a mask of {mask.width} x {mask.height} pixels is read in windows, which {mask.format} does"
            " not allow; save it as a tiled TIFF",
            path=pair.mask,
        )
