# SPDX-License-Identifier: Apache-2.0
"""TIFF pages at full depth: tiled, striped, planar, packed, float, any number of bands, palette, alpha.

tifffile decodes; the sizes and the place of every segment are checked before it does, because a header can claim
terabytes and a cut file would be filled up with zeros.

Letters: H and W height and width in pixels, C channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from denseg.data.reading.stored import Decoded, Header, Kind, check_size, opaque, orient
from denseg.errors import ImageError

__all__ = ["check_segments", "find_page", "needs_pillow", "tiff_header", "tiff_pixels", "to_decoded"]

Pixels = NDArray[Any]

MAX_CHANNELS = 1024  # hyperspectral cubes have some hundreds; a damaged header has billions
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE = 0, 1, 2, 3
_JPEG = {6, 7, 34892, 33007}
_GDAL_NODATA = 42113
_ASSOCIATED, _UNASSOCIATED = 1, 2  # ExtraSamples that are alpha


def tiff_header(path: Path, file: IO[bytes], *, page: int, max_pixels: int) -> Header:
    """Read the header of one page.

    Args:
        path: For messages.
        file: The open file.
        page: Which page.
        max_pixels: More than this is refused.

    Returns:
        The header.

    Raises:
        ImageError: The page is missing, too large, or of a form that denseg does not read.
    """
    with tifffile.TiffFile(file) as tiff:
        return _header(path, tiff, find_page(path, tiff, page), max_pixels)


def tiff_pixels(path: Path, file: IO[bytes], *, page: int, max_pixels: int) -> Decoded | None:
    """Decode one page.

    Args:
        path: For messages.
        file: The open file.
        page: Which page.
        max_pixels: More than this is refused before anything is decoded.

    Returns:
        The pixels; ``None`` where the page holds a colour space that Pillow must convert.

    Raises:
        ImageError: The page is missing, cut off, too large, or of a form that denseg does not read.
    """
    with tifffile.TiffFile(file) as tiff:
        chosen = find_page(path, tiff, page)
        header = _header(path, tiff, chosen, max_pixels)
        if needs_pillow(chosen):
            if page:
                raise ImageError(f"{path}: page {page} has colour space {header.mode}; save it as RGB", path=path)
            return None
        check_segments(path, chosen, tiff.filehandle.size)
        values: Pixels = np.asarray(chosen.asarray(maxworkers=1))
        return to_decoded(path, chosen, header, values)


def find_page(path: Path, tiff: Any, page: int) -> Any:
    """Find a page of an open file.

    Args:
        path: For messages.
        tiff: The open ``TiffFile``.
        page: Which page.

    Returns:
        The page.

    Raises:
        ImageError: There is no such page.
    """
    try:
        return tiff.pages[page]
    except IndexError as error:
        raise ImageError(f"{path}: there is no page {page}; the file has {len(tiff.pages)}", path=path) from error


def needs_pillow(page: Any) -> bool:
    """Say whether a page's colour space must be converted by Pillow.

    Args:
        page: The page.

    Returns:
        Whether tifffile would leave it as stored.
    """
    photometric = int(page.photometric)
    if photometric in (_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE):
        return int(page.compression) == 6  # old-style JPEG
    return photometric in (5, 8, 9) or (photometric == 6 and int(page.compression) != 7)


def _header(path: Path, tiff: Any, page: Any, max_pixels: int) -> Header:
    width, height, samples = int(page.imagewidth), int(page.imagelength), int(page.samplesperpixel)
    if int(page.imagedepth) != 1:
        raise ImageError(f"{path}: holds a volume of depth {page.imagedepth}; save its slices as pages", path=path)
    if not 1 <= samples <= MAX_CHANNELS:
        raise ImageError(f"{path}: {samples} bands, more than the {MAX_CHANNELS} that denseg reads", path=path)
    if page.dtype is None or np.dtype(page.dtype).kind not in "buif":
        raise ImageError(f"{path}: pixels are of type {page.dtype or 'unknown'}, not numbers; convert them", path=path)
    check_size(path, width, height, max_pixels, pixel_bytes=samples * np.dtype(page.dtype).itemsize)
    alpha = _alpha_channel(page) is not None
    color = samples - alpha
    kind: Kind = "grey" if color == 1 else "color" if color == 3 and _is_color(page) else "bands"
    if int(page.photometric) == _PALETTE:
        kind = "palette"
    dtype = "bool" if page.bitspersample == 1 and kind != "palette" else np.dtype(page.dtype).name
    if needs_pillow(page):
        kind, color, dtype = "color", 3, "uint8"
    orientation = _orientation(page)
    if orientation >= 5:
        width, height = height, width
    mode = getattr(page.photometric, "name", str(page.photometric))
    bits = int(page.bitspersample) if isinstance(page.bitspersample, int) else 8
    top = 2**bits - 1 if kind == "grey" and 1 < bits < 8 else 255
    return Header(height, width, color, dtype, kind, mode, "TIFF", len(tiff.pages), orientation, alpha, top)


def _orientation(page: Any) -> int:
    tag = page.tags.get(274)
    value = tag.value if tag is not None else 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _is_color(page: Any) -> bool:
    return int(page.photometric) in (_RGB, 6)


def _alpha_channel(page: Any) -> int | None:
    """Find the channel that the file declares as alpha; channels without a declaration are bands."""
    extra = [int(value) for value in page.extrasamples or ()]
    return int(page.samplesperpixel) - 1 if extra and extra[-1] in (_ASSOCIATED, _UNASSOCIATED) else None


def check_segments(path: Path, page: Any, size: int) -> None:
    """Refuse a page whose pixels are not all in the file: tifffile would fill them up with zeros.

    Args:
        path: For messages.
        page: The page.
        size: Bytes of the file.

    Raises:
        ImageError: A strip or tile ends behind the file's end, or none has a place.
    """
    ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False) if count]
    if not ends or not all(page.dataoffsets):
        raise ImageError(f"{path}: the file says where none of its pixels are; replace it", path=path)
    if max(ends) > size:
        raise ImageError(
            f"{path}: cannot be read as a picture: the file ends early, {size} bytes of {max(ends)}; replace it",
            path=path,
        )


def to_decoded(path: Path, page: Any, header: Header, values: Pixels) -> Decoded:
    """Give decoded values of a page, or of a window of it, their meaning.

    Args:
        path: For messages.
        page: The page.
        header: The page's.
        values: As tifffile decodes them: ``(h, w)``, ``(h, w, C)`` or, planar, ``(C, h, w)``.

    Returns:
        The pixels, alpha apart.

    Raises:
        ImageError: The values do not have the channels that the header says.
    """
    if page.axes.startswith("S"):
        values = np.moveaxis(values, 0, -1)  # planar: (C, H, W) -> (H, W, C)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    channels = 1 if values.ndim == 2 else values.shape[2]
    if values.ndim not in (2, 3) or channels != header.channels + header.alpha:
        raise ImageError(
            f"{path}: pixels have the shape {values.shape}, not what the header says; replace it", path=path
        )
    values = _full_scale(page, values, header)
    alpha = None
    position = _alpha_channel(page)
    if position is not None:
        top = np.iinfo(values.dtype).max if values.dtype.kind in "ui" else 1
        if page.extrasamples[-1] == _UNASSOCIATED:  # associated: the values are already what shows over black
            alpha = (values[:, :, position] / top).astype(np.float32)
        values = np.delete(values, position, axis=2)
        values = values[:, :, 0] if values.shape[2] == 1 else values
        alpha = None if alpha is None or opaque(alpha) else orient(alpha, header.orientation)
    palette = None
    if header.kind == "palette":
        values = values.astype(np.uint8) if values.dtype == bool else values
        palette = (np.asarray(page.colormap).T >> 8).astype(np.uint8)  # (3, N) 16 bits -> (N, 3) 8 bits
    hole = _no_data(page, values)
    hole = None if hole is None else orient(hole, header.orientation)
    return Decoded(header, orient(values, header.orientation), palette, alpha, hole)


def _no_data(page: Any, values: Pixels) -> NDArray[np.bool_] | None:
    """Find the pixels that GDAL's tag declares to hold no data: all bands hold its value."""
    tag = page.tags.get(_GDAL_NODATA)
    if tag is None:
        return None
    try:
        value = float(str(tag.value).strip("\0 "))
    except ValueError:
        return None
    same = np.asarray(np.isnan(values) if np.isnan(value) else values == value, bool)
    hole = np.asarray(same.all(axis=2)) if same.ndim == 3 else same
    return hole if bool(hole.any()) else None


def _full_scale(page: Any, values: Pixels, header: Header) -> Pixels:
    """Turn white-is-zero round; the other values stay what they are."""
    if header.dtype == "bool":
        values = values.astype(bool)
    if int(page.photometric) != _MIN_IS_WHITE:
        return values
    if values.dtype.kind == "b":
        return ~values
    if values.dtype.kind == "u":
        top = 2 ** int(page.bitspersample) - 1
        turned: Pixels = (top - values).astype(values.dtype)
        return turned
    return values
