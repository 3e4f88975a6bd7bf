# SPDX-License-Identifier: Apache-2.0
"""Pictures for the network: every file as ``(H, W, C)`` at full depth, or one :class:`~denseg.errors.ImageError`.

Palettes become colours, CMYK and LAB become RGB, transparent pixels become black (their hidden colour is arbitrary),
EXIF orientation is applied, 16 bits stay 16 bits. Nothing is rescaled, apart from pictures of fewer than 8 bits, whose
white becomes 255.

Letters: H and W height and width in pixels, C bands.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from denseg.data.reading.decode import decode, read_header
from denseg.data.reading.stored import DEFAULT_MAX_PIXELS, Decoded, Header
from denseg.errors import ImageError

__all__ = ["ImageInfo", "match_bands", "probe_image", "read_image", "to_image"]

Pixels = NDArray[Any]


@dataclass(frozen=True)
class ImageInfo:
    """What ``read_image`` will give, known from the header alone.

    Attributes:
        height: Pixels, upright.
        width: Pixels, upright.
        bands: C of the array.
        dtype: ``uint8``, ``uint16`` or ``float32``.
        mode: Pillow's mode, or TIFF's photometric interpretation.
        format: ``PNG``, ``JPEG``, ``TIFF``, ….
        frames: Pages or frames in the file.
        orientation: EXIF orientation, 1 is upright as stored.
        alpha: Whether some pixels can be transparent.
        palette: Whether the pixels are indices into colours.
    """

    height: int
    width: int
    bands: int
    dtype: str
    mode: str
    format: str
    frames: int = 1
    orientation: int = 1
    alpha: bool = False
    palette: bool = False


def probe_image(path: Path | str, *, page: int = 0, max_pixels: int = DEFAULT_MAX_PIXELS) -> ImageInfo:
    """Read a picture's header; no pixel is decoded.

    Args:
        path: The file.
        page: Which page of a TIFF.
        max_pixels: More than this is refused.

    Returns:
        What ``read_image`` would give.

    Raises:
        ImageError: The file is missing, no picture, damaged in its header, or too large.
    """
    return image_info(read_header(Path(path), page=page, max_pixels=max_pixels))


def read_image(path: Path | str, *, page: int = 0, max_pixels: int = DEFAULT_MAX_PIXELS) -> Pixels:
    """Read a picture at full depth, upright.

    Args:
        path: The file.
        page: Which page of a TIFF.
        max_pixels: More than this is refused before anything is decoded.

    Returns:
        ``(H, W, C)`` uint8, uint16 or float32, contiguous; float pictures may hold NaN where there is no data.

    Raises:
        ImageError: The file is missing, no picture, damaged, truncated, or too large.
    """
    return to_image(decode(Path(path), page=page, max_pixels=max_pixels))


def to_image(decoded: Decoded) -> Pixels:
    """Turn stored pixels into what the network sees.

    Args:
        decoded: The pixels as stored.

    Returns:
        ``(H, W, C)`` uint8, uint16 or float32, contiguous.
    """
    values = decoded.values
    if decoded.header.kind == "palette":
        values = _lookup(decoded)  # (H, W) -> (H, W, 3)
    if values.dtype == bool:
        values = values.astype(np.uint8) * 255
    elif values.dtype not in (np.uint8, np.uint16):
        values = values.astype(np.float32)
    elif decoded.header.top < 255 and decoded.header.kind == "grey" and values.dtype == np.uint8:
        values = np.rint(values * (255 / decoded.header.top)).astype(np.uint8)
    if values.ndim == 2:
        values = values[:, :, None]  # (H, W) -> (H, W, 1)
    if decoded.alpha is not None:
        shown = values * decoded.alpha[:, :, None]
        values = shown.astype(np.float32) if values.dtype == np.float32 else np.rint(shown).astype(values.dtype)
    return np.ascontiguousarray(values)


def match_bands(image: Pixels, bands: int, path: Path | str) -> Pixels:
    """Give a picture the number of bands that the data set or the model has: grey among colour, or grey saved as RGB.

    Args:
        image: ``(H, W, C)``.
        bands: How many bands are wanted.
        path: For the message.

    Returns:
        ``(H, W, bands)``; grey repeated, or one of three equal bands.

    Raises:
        ImageError: The bands cannot be matched without losing or inventing something.
    """
    have = image.shape[2]
    if have == bands:
        return image
    if have == 1:
        return np.repeat(image, bands, axis=2)
    if bands == 1 and bool((image == image[:, :, :1]).all()):
        return np.ascontiguousarray(image[:, :, :1])
    raise ImageError(f"{path}: {have} bands, expected {bands}; convert it or remove it", path=path)


def image_info(header: Header) -> ImageInfo:
    """Say what ``read_image`` gives for a header.

    Args:
        header: The file's header.

    Returns:
        Size, bands and dtype of the array, and where they come from.
    """
    palette = header.kind == "palette"
    dtype = "uint8" if header.dtype == "bool" else header.dtype
    return ImageInfo(
        height=header.height,
        width=header.width,
        bands=3 if palette else header.channels,
        dtype=dtype if dtype in {"uint8", "uint16"} or palette else "float32",
        mode=header.mode,
        format=header.format,
        frames=header.frames,
        orientation=header.orientation,
        alpha=header.alpha,
        palette=palette,
    )


def _lookup(decoded: Decoded) -> Pixels:
    colors = np.zeros((max(256, int(decoded.values.max(initial=0)) + 1), 3), np.uint8)
    if decoded.palette is not None:
        colors[: len(decoded.palette)] = decoded.palette
    return colors[decoded.values]
