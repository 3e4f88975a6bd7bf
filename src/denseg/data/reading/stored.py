# SPDX-License-Identifier: Apache-2.0
"""Pixels as a file stores them, and the limits that are checked before any of them is decoded.

Letters: H and W height and width in pixels, after the orientation that the file asks for; C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from denseg.errors import ImageError

__all__ = ["DEFAULT_MAX_PIXELS", "Decoded", "Header", "Kind", "check_size", "opaque", "orient"]

Pixels = NDArray[Any]
Kind = Literal["grey", "palette", "color", "bands"]

DEFAULT_MAX_PIXELS = 178_956_970  # where Pillow itself gives up; DataConfig.max_pixels has the same default
BYTES_PER_PIXEL = 16  # a picture of more bytes per pixel counts as so many pixels more


@dataclass(frozen=True)
class Header:
    """What a file says about itself before its pixels are decoded.

    Attributes:
        height: Pixels, after the orientation.
        width: Pixels, after the orientation.
        channels: Stored values per pixel without alpha; 1 for a palette.
        dtype: Of the stored values, numpy's name.
        kind: What the values are.
        mode: Pillow's mode, or TIFF's photometric interpretation.
        format: ``PNG``, ``JPEG``, ``TIFF``, ….
        frames: Pages or frames in the file; 1 where the format has one.
        orientation: EXIF orientation, 1..8; 1 is upright.
        alpha: Whether some pixels can be transparent.
        top: Value of white where the file has fewer than 8 bits; 255 otherwise.
    """

    height: int
    width: int
    channels: int
    dtype: str
    kind: Kind
    mode: str
    format: str
    frames: int = 1
    orientation: int = 1
    alpha: bool = False
    top: int = 255


@dataclass(frozen=True)
class Decoded:
    """The pixels of one file as stored.

    Attributes:
        header: What the file said about itself.
        values: ``(H, W)`` for grey and palette, ``(H, W, C)`` for colour and bands; the stored dtype.
        palette: ``(N, 3)`` uint8, for kind ``palette``.
        alpha: ``(H, W)`` float32 in 0..1, or ``None`` where every pixel is opaque by format.
        hole: ``(H, W)`` where the file declares that there is no data, or ``None`` where it declares nothing.
    """

    header: Header
    values: Pixels
    palette: NDArray[np.uint8] | None = None
    alpha: NDArray[np.float32] | None = None
    hole: NDArray[np.bool_] | None = None


def orient(values: Pixels, orientation: int) -> Pixels:
    """Bring pixels into the position that an EXIF orientation asks for.

    Args:
        values: ``(H, W)`` or ``(H, W, C)``.
        orientation: 1..8; anything else counts as 1.

    Returns:
        The turned pixels; a view where that is possible.
    """
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values


def check_size(path: Path, width: int, height: int, max_pixels: int, *, pixel_bytes: int = 1) -> None:
    """Refuse a size that is empty or beyond the limit.

    Args:
        path: For the message.
        width: Pixels.
        height: Pixels.
        max_pixels: The limit.
        pixel_bytes: Bytes that one pixel takes; more than 16 lower the limit as much.

    Raises:
        ImageError: The size is refused.
    """
    if width < 1 or height < 1:
        raise ImageError(f"{path}: the header says {width} x {height} pixels; replace the file", path=path)
    weight = max(1, -(-pixel_bytes // BYTES_PER_PIXEL))
    if width * height * weight > max_pixels:
        many = f" of {pixel_bytes} bytes count as" if weight > 1 else " ="
        raise ImageError(
            f"{path}: {width} x {height} pixels{many} {width * height * weight}, more than the limit of {max_pixels};"
            f" cut the picture into tiles, or raise the limit with --set data.max_pixels={width * height * weight}",
            path=path,
        )


def opaque(alpha: NDArray[np.float32] | None) -> bool:
    """Say whether every pixel is fully opaque.

    Args:
        alpha: ``(H, W)`` in 0..1, or ``None``.

    Returns:
        Whether nothing would be lost by leaving alpha out.
    """
    return alpha is None or bool((alpha >= 1).all())
