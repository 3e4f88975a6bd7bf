# SPDX-License-Identifier: Apache-2.0
"""The pixels of one pair's files: the whole file, one page, the window of a raster, or outlines drawn into it.

Letters: h and w height and width of a window in pixels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from denseg.data.folders.inventory import Pair
from denseg.data.folders.rasters import VECTORS
from denseg.data.reading.decode import decode
from denseg.data.reading.images import probe_image, read_image, to_image
from denseg.data.reading.layers import layered_pixels
from denseg.data.reading.stored import DEFAULT_MAX_PIXELS, Decoded
from denseg.data.reading.windows import TiffWindows, count_pages
from denseg.errors import ImageError

__all__ = ["decode_image", "decode_mask", "pages_around", "pair_size", "read_stack"]

OPEN = 4  # rasters that a process keeps open


def decode_image(pair: Pair, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Decoded:
    """Decode the picture of a pair, or its window.

    Args:
        pair: The pair.
        max_pixels: More than this is refused.

    Returns:
        The pixels as stored.

    Raises:
        ImageError: The file cannot be read.
    """
    if pair.pages:
        return _stacked(pair.image, pair.pages, max_pixels)
    if pair.window is None:
        return decode(pair.image, page=pair.image_page, max_pixels=max_pixels)
    return _open(pair.image, pair.image_page).decode(*pair.window)


def decode_mask(pair: Pair, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Decoded:
    """Decode the mask of a pair, or its window; outlines are drawn.

    Args:
        pair: The pair.
        max_pixels: More than this is refused.

    Returns:
        The pixels as stored.

    Raises:
        ImageError: The file cannot be read.
    """
    if pair.mask.suffix.lower() in VECTORS:
        from denseg.data.reading.vectors import drawn_pixels  # not at the top: needs the extra [geo]

        return drawn_pixels(pair.mask, pair.image, pair.window or (0, 0, *pair_size(pair)))
    if pair.layers:
        return layered_pixels(pair.layers, max_pixels=max_pixels)
    if pair.window is None:
        return decode(pair.mask, page=pair.mask_page, max_pixels=max_pixels)
    return _open(pair.mask, pair.mask_page).decode(*pair.window)


def read_stack(path: Path, page: int, neighbours: int, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[Any]:
    """Read a slice of a stack with its neighbours as bands.

    Args:
        path: The stack.
        page: Which slice.
        neighbours: Slices on either side; at the ends the last one is repeated.
        max_pixels: More than this is refused.

    Returns:
        ``(H, W, (2 * neighbours + 1) * C)``.

    Raises:
        ImageError: The file cannot be read.
    """
    if not neighbours:
        return read_image(path, page=page, max_pixels=max_pixels)
    return to_image(_stacked(path, pages_around(page, count_pages(path), neighbours), max_pixels))


def pages_around(page: int, pages: int, neighbours: int) -> tuple[int, ...]:
    """List a slice and its neighbours, from the first to the last.

    Args:
        page: The slice.
        pages: Slices of the stack.
        neighbours: On either side; beyond the ends the last slice is repeated.

    Returns:
        ``2 * neighbours + 1`` pages.
    """
    return tuple(min(max(other, 0), pages - 1) for other in range(page - neighbours, page + neighbours + 1))


def _stacked(path: Path, pages: Sequence[int], max_pixels: int) -> Decoded:
    parts = [decode(path, page=page, max_pixels=max_pixels) for page in pages]
    first = parts[0]
    if any(part.palette is not None or part.values.shape != first.values.shape for part in parts):
        raise ImageError(f"{path}: its slices differ in size or have palettes; save them alike", path=path)
    values = [part.values if part.values.ndim == 3 else part.values[:, :, None] for part in parts]  # (H, W, C)
    holes = [part.hole for part in parts if part.hole is not None]
    stacked = np.concatenate(values, axis=2)
    header = replace(first.header, channels=stacked.shape[2], kind="bands", alpha=False)
    return Decoded(header, stacked, hole=np.logical_or.reduce(holes) if holes else None)


def pair_size(pair: Pair, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[int, int]:
    """Give height and width of a pair's picture, from its window or its header.

    Args:
        pair: The pair.
        max_pixels: More than this is refused.

    Returns:
        ``(height, width)`` in pixels.

    Raises:
        ImageError: The header cannot be read.
    """
    if pair.window is not None:
        return pair.window[2], pair.window[3]
    info = probe_image(pair.image, page=pair.image_page, max_pixels=max_pixels)
    return info.height, info.width


def _open(path: Path, page: int) -> TiffWindows:
    """Open a raster, or take it from those that this process has open: a forked one must not share its files."""
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise ImageError(f"{path}: cannot be read as a picture: {error.strerror or error}", path=path) from error
    return _opened(path, page, changed, os.getpid())


@lru_cache(maxsize=OPEN)
def _opened(path: Path, page: int, changed: int, process: int) -> TiffWindows:
    return TiffWindows(path, page=page)
