# SPDX-License-Identifier: Apache-2.0
"""Labels as files: index pictures with the classes' colours, and overlays for the eye.

Letters: H and W height and width, C bands, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from denseg.files import atomic_path, make_folder, write_atomic
from denseg.types import ClassTable

__all__ = [
    "overlay_pixels",
    "read_labels",
    "to_display",
    "write_instances",
    "write_labels",
    "write_overlay",
    "write_probabilities",
]

Array = npt.NDArray[Any]

OPACITY = 128
"""Of a class colour over the picture, 0..256. Black is no colour here: such classes leave the picture as it is."""


def write_labels(path: Path, labels: Array, classes: ClassTable) -> None:
    """Write labels as PNG: class indices with the classes' colours as palette; 16 bits for more than 256 classes.

    Args:
        path: Where; its folder is made.
        labels: ``(H, W)`` in 0..K-1.
        classes: The classes.
    """
    make_folder(path.parent)
    if len(classes) > 256:
        picture = Image.fromarray(np.ascontiguousarray(labels, np.uint16))
    else:
        picture = Image.fromarray(np.ascontiguousarray(labels, np.uint8), mode="P")
        picture.putpalette([channel for color in classes.colors for channel in color])
    write_atomic(path, lambda file: picture.save(file, format="PNG"))


def read_labels(path: Path) -> Array:
    """Read labels that :func:`write_labels`, or the streamed writer, wrote.

    Args:
        path: ``.png`` or ``.tif``.

    Returns:
        ``(H, W)`` class indices.
    """
    if path.suffix == ".tif":
        labels: Array = tifffile.imread(path, key=0)
        return labels
    with Image.open(path) as picture:
        return np.asarray(picture)


def write_instances(path: Path, instances: npt.NDArray[np.int32]) -> None:
    """Write the numbers of objects as a 32-bit TIFF.

    Args:
        path: Where; its folder is made.
        instances: ``(H, W)``, 0 where there is none.
    """
    make_folder(path.parent)
    with atomic_path(path) as temporary:
        tifffile.imwrite(temporary, instances, compression="zlib", metadata=None, software="denseg")


def write_overlay(path: Path, image: Array, labels: Array, classes: ClassTable) -> None:
    """Write the picture with the classes' colours over it as PNG.

    Args:
        path: Where; its folder is made.
        image: ``(H, W, C)`` or ``(H, W)``, any depth.
        labels: ``(H, W)`` in 0..K-1.
        classes: The classes.
    """
    make_folder(path.parent)
    picture = Image.fromarray(overlay_pixels(to_display(image), labels, classes.colors))
    # A picture is noise to PNG: more effort takes ten times as long and saves a few per cent.
    write_atomic(path, lambda file: picture.save(file, format="PNG", compress_level=1))


def write_probabilities(path: Path, probabilities: npt.NDArray[np.float32]) -> None:
    """Write probabilities as a TIFF of one band per class, 32-bit floats.

    Args:
        path: Where; its folder is made.
        probabilities: ``(K, H, W)``.
    """
    make_folder(path.parent)
    with atomic_path(path) as temporary:
        tifffile.imwrite(
            temporary,
            probabilities,
            photometric="minisblack",
            planarconfig="separate" if len(probabilities) > 1 else None,
            compression="zlib",
            predictor=3,
            metadata=None,
            software="denseg",
        )


def overlay_pixels(
    shown: npt.NDArray[np.uint8], labels: Array, colors: Sequence[tuple[int, int, int]]
) -> npt.NDArray[np.uint8]:
    """Lay the classes' colours over a picture.

    Args:
        shown: ``(H, W, 3)``.
        labels: ``(H, W)`` in 0..K-1.
        colors: One per class.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    table = np.asarray(colors, np.uint16).reshape(-1, 3)
    opacity = np.where(table.any(axis=1), OPACITY, 0).astype(np.uint16)  # (K,)
    paint = table * opacity[:, None]  # (K, 3)
    keep = 256 - opacity
    mixed = np.multiply(shown, keep[labels][:, :, None], dtype=np.uint16)  # (H, W, 3)
    mixed += paint[labels]
    mixed >>= 8
    return mixed.astype(np.uint8)


def to_display(
    image: Array, limits: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None = None
) -> npt.NDArray[np.uint8]:
    """Bring a picture of any depth and number of bands to what a screen shows.

    Args:
        image: ``(H, W, C)`` or ``(H, W)``. Of more than three bands the first three are shown, of two the first.
        limits: Darkest and brightest value per shown band of a deep picture; its 1st and 99th percentile if ``None``.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    bands = shown_bands(image)
    if bands.dtype != np.uint8:
        low, high = limits or display_limits(image)
        scale = 255 / np.where(high > low, high - low, 1.0)
        stretched = (bands.astype(np.float32) - low.astype(np.float32)) * scale.astype(np.float32)
        bands = np.nan_to_num(stretched, nan=0.0, posinf=255.0, neginf=0.0).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(bands, (*bands.shape[:2], 3)))


def display_limits(image: Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Find the 1st and 99th percentile of each shown band, on a sample of the pixels.

    Args:
        image: ``(H, W, C)`` or ``(H, W)``.

    Returns:
        Darkest and brightest value, one per shown band.
    """
    bands = shown_bands(image)
    step = max(1, int((bands.shape[0] * bands.shape[1] / 250_000) ** 0.5))
    sample = bands[::step, ::step].reshape(-1, bands.shape[2]).astype(np.float64)  # (N, C)
    low, high = np.zeros(bands.shape[2]), np.ones(bands.shape[2])
    for band, values in enumerate(sample.T):
        finite = values[np.isfinite(values)]
        if finite.size:
            low[band], high[band] = np.percentile(finite, (1, 99))
    return low, high


def shown_bands(image: Array) -> Array:
    """Choose the bands that a screen shows.

    Args:
        image: ``(H, W, C)`` or ``(H, W)``.

    Returns:
        ``(H, W, 1)`` or ``(H, W, 3)``, a view.
    """
    bands = image[:, :, None] if image.ndim == 2 else image
    return bands[:, :, :3] if bands.shape[2] >= 3 else bands[:, :, :1]
