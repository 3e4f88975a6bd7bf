# SPDX-License-Identifier: Apache-2.0
"""The pixels of one pair's files: the whole file, one page, the window of a raster, or outlines drawn into it.

Letters: h and w height and width of a window in pixels.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from denseg.data.decode import decode
from denseg.data.images import probe_image
from denseg.data.inventory import Pair
from denseg.data.layers import layered_pixels
from denseg.data.rasters import VECTORS
from denseg.data.stored import DEFAULT_MAX_PIXELS, Decoded
from denseg.data.windows import TiffWindows
from denseg.errors import ImageError

__all__ = ["decode_image", "decode_mask", "pair_size"]

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
        from denseg.data.vectors import drawn_pixels  # not at the top: needs the extra [geo]

        return drawn_pixels(pair.mask, pair.image, pair.window or (0, 0, *pair_size(pair)))
    if pair.layers:
        return layered_pixels(pair.layers, max_pixels=max_pixels)
    if pair.window is None:
        return decode(pair.mask, page=pair.mask_page, max_pixels=max_pixels)
    return _open(pair.mask, pair.mask_page).decode(*pair.window)


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
