# SPDX-License-Identifier: Apache-2.0
"""Pixels for the page: pictures of any depth as small WebP, labels as small PNG, both as ``data:`` addresses.

Letters: H and W height and width in pixels, C bands, K classes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from denseg.types import distinct_colors

__all__ = [
    "CLEAR_COLORS",
    "distinct",
    "errors_png",
    "labels_png",
    "photo_webp",
    "shrink_labels",
    "shrink_photo",
    "to_display",
]

Labels = NDArray[np.integer[Any]]
Color = tuple[int, int, int]

# Okabe and Ito's colours, which people with any colour vision tell apart.
CLEAR_COLORS: tuple[Color, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (213, 94, 0),
    (86, 180, 233),
    (240, 228, 66),
)
_ERROR: Color = (213, 94, 0)
_FAINT = 40  # opacity of black, 0..255: black is most tables' background, and must not darken the picture


def distinct(colors: Sequence[Sequence[int]]) -> tuple[Color, ...]:
    """Give classes colours that can be told apart over a picture: their own, unless nobody chose them or all are grey.

    Args:
        colors: ``(red, green, blue)`` per class.

    Returns:
        As many colours, no two equal.
    """
    own = [(int(c[0]), int(c[1]), int(c[2])) for c in colors]
    unchosen = own == list(distinct_colors(len(own))) or all(max(c) - min(c) < 12 for c in own)
    if unchosen and len(own) <= len(CLEAR_COLORS):
        return CLEAR_COLORS[: len(own)]
    taken: set[Color] = set()
    result = []
    for color in own:
        step = 0
        while color in taken:  # walk through neighbouring colours; 2 ** 24 of them outnumber any class table
            step += 1
            red, green, blue = color
            color = ((red + 37 * step) % 256, (green + 91 * step) % 256, (blue + 53) % 256)
        taken.add(color)
        result.append(color)
    return tuple(result)


def to_display(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Bring a picture of any depth and band count to what a screen shows.

    Args:
        image: ``(H, W, C)``; more than 8 bits are stretched between the 1st and 99th percentile of each band; of more
            than three bands the first three are shown, of two the first.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    bands = image if image.shape[2] >= 3 else image[:, :, :1]
    bands = bands[:, :, :3]
    if bands.dtype != np.uint8:
        step = max(1, int((bands.shape[0] * bands.shape[1] / 250_000) ** 0.5))
        sample = bands[::step, ::step].reshape(-1, bands.shape[2]).astype(np.float64)  # (N, C)
        sample[~np.isfinite(sample)] = np.nan
        filled = np.where(np.isnan(sample).all(axis=0), 0.0, sample)
        low, high = np.nanpercentile(filled, (1, 99), axis=0)  # (C,) each
        scale = 255 / np.where(high > low, high - low, 1.0)
        bands = np.clip(
            (np.nan_to_num(bands.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0) - low) * scale, 0, 255
        )
        bands = np.rint(bands).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(bands, (*bands.shape[:2], 3)))


def shrink_photo(image: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """Make a picture at most ``longest`` pixels long, averaging.

    Args:
        image: ``(H, W, 3)``.
        longest: Largest height and width.

    Returns:
        ``(h, w, 3)``, the same picture where it is small enough.
    """
    height, width = _fit(image.shape[0], image.shape[1], longest)
    if (height, width) == image.shape[:2]:
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))


def shrink_labels(labels: Labels, longest: int) -> Labels:
    """Make labels at most ``longest`` pixels long, by the nearest pixel.

    Args:
        labels: ``(H, W)``.
        longest: Largest height and width.

    Returns:
        ``(h, w)``, of the size that ``shrink_photo`` gives.
    """
    height, width = _fit(labels.shape[0], labels.shape[1], longest)
    rows = ((np.arange(height) + 0.5) * labels.shape[0] / height).astype(np.intp)
    columns = ((np.arange(width) + 0.5) * labels.shape[1] / width).astype(np.intp)
    small: Labels = labels[rows[:, None], columns]  # (h, w)
    return small


def photo_webp(image: NDArray[np.uint8], *, quality: int = 82) -> str:
    """Write a picture as a ``data:`` address.

    Args:
        image: ``(h, w, 3)``.
        quality: WebP quality, 0..100.

    Returns:
        The address.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", quality=quality, method=4)
    return _address("image/webp", buffer)


def labels_png(labels: Labels, colors: Sequence[Color]) -> str:
    """Write labels in their colours as a ``data:`` address; what is no class is transparent.

    Args:
        labels: ``(h, w)`` class indices; others are no class.
        colors: One per class, all different.

    Returns:
        The address.
    """
    clear = len(colors)
    index = np.where((labels >= 0) & (labels < clear), labels, clear)
    alpha = [_FAINT if max(color) < 8 else 255 for color in colors] + [0]
    if clear < 256:
        picture = Image.fromarray(index.astype(np.uint8))
        picture.putpalette([value for color in (*colors, (0, 0, 0)) for value in color])
    else:
        table = np.array([(*color, a) for color, a in zip((*colors, (0, 0, 0)), alpha, strict=True)], np.uint8)
        picture = Image.fromarray(table[index])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True, **({"transparency": bytes(alpha)} if clear < 256 else {}))
    return _address("image/png", buffer)


def errors_png(wrong: NDArray[np.bool_]) -> str:
    """Write where prediction and truth differ as a ``data:`` address, transparent elsewhere.

    Args:
        wrong: ``(h, w)``.

    Returns:
        The address.
    """
    return labels_png(np.where(wrong, 0, 1), (_ERROR,))


def _fit(height: int, width: int, longest: int) -> tuple[int, int]:
    factor = min(1.0, longest / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _address(kind: str, buffer: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
