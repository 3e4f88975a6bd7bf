# SPDX-License-Identifier: Apache-2.0
"""Read one pair of the inventory: the picture for the network, the mask as labels, both of one size.

Letters: H and W height and width in pixels, C bands.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from denseg.data.encoding import MaskEncoding
from denseg.data.folders.inventory import Pair
from denseg.data.reading.images import match_bands, to_image
from denseg.data.reading.masks import RawMask, to_mask
from denseg.data.reading.parts import decode_image, decode_mask
from denseg.data.reading.stored import DEFAULT_MAX_PIXELS
from denseg.errors import DataError

__all__ = ["read_pair", "read_pair_image", "read_pair_labels", "read_pair_mask"]

Pixels = NDArray[Any]


def read_pair_image(pair: Pair, *, bands: int | None = None, max_pixels: int = DEFAULT_MAX_PIXELS) -> Pixels:
    """Read the picture of a pair.

    Args:
        pair: The pair.
        bands: How many bands the data set has; ``None`` takes the picture as it is.
        max_pixels: More than this is refused.

    Returns:
        ``(H, W, C)`` uint8, uint16 or float32.

    Raises:
        ImageError: The file cannot be read, or has other bands.
    """
    image = to_image(decode_image(pair, max_pixels=max_pixels))
    return image if bands is None else match_bands(image, bands, pair.image)


def read_pair_mask(pair: Pair, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> RawMask:
    """Read the mask of a pair as stored.

    Args:
        pair: The pair.
        max_pixels: More than this is refused.

    Returns:
        The mask.

    Raises:
        ImageError: The file cannot be read.
    """
    return to_mask(decode_mask(pair, max_pixels=max_pixels), pair.mask)


def read_pair_labels(
    pair: Pair, encoding: MaskEncoding, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Read the mask of a pair as labels.

    Args:
        pair: The pair.
        encoding: What the stored values mean.
        max_pixels: More than this is refused.

    Returns:
        ``(H, W)`` uint8 or uint16 in 0..K-1 or ``encoding.ignore_index``.

    Raises:
        DataError: The file cannot be read, or holds a value that the encoding does not know.
    """
    return encoding.decode(read_pair_mask(pair, max_pixels=max_pixels), pair.mask)


def read_pair(
    pair: Pair, encoding: MaskEncoding, *, bands: int | None = None, max_pixels: int = DEFAULT_MAX_PIXELS
) -> tuple[Pixels, NDArray[np.uint8] | NDArray[np.uint16]]:
    """Read a pair and check that picture and mask are of one size.

    Where a float picture is not finite, or a file declares no data, the labels become ``ignore_index``; the picture is
    left as it is.

    Args:
        pair: The pair.
        encoding: What the stored values of the mask mean.
        bands: How many bands the data set has; ``None`` takes the picture as it is.
        max_pixels: More than this is refused.

    Returns:
        ``(H, W, C)`` picture and ``(H, W)`` labels.

    Raises:
        DataError: A file cannot be read or decoded, or the sizes differ.
    """
    decoded = decode_image(pair, max_pixels=max_pixels)
    image = to_image(decoded)
    image = image if bands is None else match_bands(image, bands, pair.image)
    labels = read_pair_labels(pair, encoding, max_pixels=max_pixels)
    if image.shape[:2] != labels.shape:
        raise DataError(
            f"{pair.mask}: the mask is {labels.shape[1]} x {labels.shape[0]} pixels, its picture {pair.image.name} is"
            f" {image.shape[1]} x {image.shape[0]}; make them equal",
            path=pair.mask,
        )
    if image.dtype.kind == "f":
        hole = np.asarray(~np.isfinite(image).all(axis=2))
        if bool(hole.any()):
            labels[hole] = encoding.ignore_index
    if decoded.hole is not None:
        labels[decoded.hole] = encoding.ignore_index
    return image, labels
