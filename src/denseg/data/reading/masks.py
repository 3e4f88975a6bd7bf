# SPDX-License-Identifier: Apache-2.0
"""Masks exactly as stored: a palette index stays an index, a 16-bit id stays an id, nothing is resized or rounded.

What the values mean is said by :class:`~denseg.data.encoding.MaskEncoding`.

Letters: H and W height and width in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from denseg.data.reading.decode import decode
from denseg.data.reading.stored import DEFAULT_MAX_PIXELS, Decoded, Header
from denseg.errors import ImageError

__all__ = ["RawMask", "read_mask", "to_mask"]

Pixels = NDArray[Any]
MaskKind = Literal["index", "palette", "color", "float"]


@dataclass(frozen=True)
class RawMask:
    """The values of one mask as stored.

    Attributes:
        values: ``(H, W)`` integers for ``index`` and ``palette``, ``(H, W, 3)`` uint8 for ``color``, ``(H, W)`` float
            for ``float`` (numbers that are not whole).
        kind: What the values are. A colour file whose channels are all equal counts as ``index``.
        palette: ``(N, 3)`` uint8 colours of the indices, for ``palette``.
        header: What the file said about itself.
        transparent: Share of pixels that are not fully opaque; they are read as stored where partly transparent and as
            black where fully so.
        hole: ``(H, W)`` pixels that hold NaN or infinity among whole numbers: they carry no label. ``None``: none do.
    """

    values: Pixels
    kind: MaskKind
    palette: NDArray[np.uint8] | None
    header: Header
    transparent: float = 0.0
    hole: NDArray[np.bool_] | None = None


def read_mask(path: Path | str, *, page: int = 0, max_pixels: int = DEFAULT_MAX_PIXELS) -> RawMask:
    """Read a mask's values as stored, upright.

    Args:
        path: The file.
        page: Which page of a TIFF.
        max_pixels: More than this is refused before anything is decoded.

    Returns:
        The values.

    Raises:
        ImageError: The file is missing, no picture, damaged, too large, or has more bands than a mask can have.
    """
    return to_mask(decode(Path(path), page=page, max_pixels=max_pixels), Path(path))


def to_mask(decoded: Decoded, path: Path) -> RawMask:
    """Take stored pixels as a mask.

    Args:
        decoded: The pixels as stored.
        path: For the message.

    Returns:
        The values.

    Raises:
        ImageError: The pixels have bands that are neither grey nor colour.
    """
    values, header = decoded.values, decoded.header
    transparent = 0.0
    if decoded.alpha is not None:
        transparent = float((decoded.alpha < 1).mean())
        clear = decoded.alpha <= 0
        if header.kind != "palette" and bool(clear.any()):
            values = np.where(clear[:, :, None] if values.ndim == 3 else clear, values.dtype.type(0), values)
    if header.kind == "palette":
        return RawMask(values, "palette", decoded.palette, header, transparent)
    if values.ndim == 3:
        if bool((values == values[:, :, :1]).all()):
            values = values[:, :, 0]  # (H, W, C) -> (H, W)
        elif values.shape[2] != 3 or values.dtype != np.uint8:
            raise ImageError(
                f"{path}: a mask has one band of ids or three 8-bit bands of colour; this one has {values.shape[2]}"
                f" bands of {values.dtype}; save it as an index PNG",
                path=path,
            )
        else:
            return RawMask(np.ascontiguousarray(values), "color", None, header, transparent)
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        known = values[finite]
        whole = bool((known == np.rint(known)).all()) and bool((abs(known) < 2**31).all())
        if not whole:
            return RawMask(values, "float", None, header, transparent)
        hole = None if known.size == values.size else ~finite
        values = np.where(finite, values, 0).astype(np.int32)
        return RawMask(np.ascontiguousarray(values), "index", None, header, transparent, hole)
    return RawMask(np.ascontiguousarray(values), "index", None, header, transparent)
