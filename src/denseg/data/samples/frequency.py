# SPDX-License-Identifier: Apache-2.0
"""A picture as a sum of radial frequency bands: coarse light and shade, forms, fine texture and edges.

Definition:
    The picture is mirrored at its edges, so that no edge makes a jump, and taken apart by frequency; of a mirrored
    picture the Fourier transform is the cosine transform (DCT-II), N. Ahmed et al., "Discrete Cosine Transform", IEEE
    Transactions on Computers 1974. Coefficient k along an axis of n pixels has k / 2n cycles per pixel; a band holds a
    range of sqrt(fy ** 2 + fx ** 2). Around a cut-off one band gives way to the next over one octave, as a raised
    cosine of the logarithm of the frequency: sharp limits would ring. The mean is in the lowest band.

Shape letters: H and W height and width, C channels, S bands.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import fft

from denseg.errors import ShapeError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CUTOFFS", "remove_band", "split_bands"]

CUTOFFS = (1 / 32, 1 / 8)
"""Cycles per pixel: waves longer than 32 pixels, of 32 to 8 pixels, and shorter ones."""

_OCTAVE = 1.0
"""Width of the change from a band to the next."""


def split_bands(image: NDArray[Any], cutoffs: Sequence[float] = CUTOFFS) -> NDArray[np.float64]:
    """Take a picture apart into frequency bands that sum to it.

    Args:
        image: ``(H, W, C)``, finite; not changed.
        cutoffs: Cycles per pixel between one band and the next, increasing, S - 1 of them.

    Returns:
        ``(S, H, W, C)`` from low to high frequencies, in the picture's unit. All but the first have mean 0.

    Raises:
        ShapeError: ``image`` is not ``(H, W, C)``.
        UsageError: The cut-offs do not increase, or lie outside 0 to 0.5.
    """
    if image.ndim != 3 or 0 in image.shape:
        raise ShapeError(f"image must be (H, W, C) with at least one pixel, got {image.shape}")
    ends = (0.0, *cutoffs, 0.5)
    if len(ends) < 3 or any(low >= high for low, high in itertools.pairwise(ends)):
        raise UsageError(f"cut-offs must increase and lie between 0 and 0.5 cycles per pixel, got {list(cutoffs)}")
    values = image.astype(np.float64)
    rows, columns = (np.arange(size) / (2 * size) for size in image.shape[:2])
    radius = np.hypot(rows[:, None], columns)  # (H, W) cycles per pixel
    below = [_gain(radius, cutoff) for cutoff in cutoffs]
    bands = np.empty((len(below) + 1, *image.shape))
    for channel in range(image.shape[2]):  # one at a time: the transforms of a large picture need room
        spectrum = fft.dctn(values[:, :, channel], norm="ortho")  # (H, W)
        passed = np.zeros(image.shape[:2])
        for index, gain in enumerate(below):
            smooth = fft.idctn(spectrum * gain, norm="ortho")  # (H, W)
            bands[index, :, :, channel] = smooth - passed
            passed = smooth
        bands[-1, :, :, channel] = values[:, :, channel] - passed
    return bands


def remove_band(bands: NDArray[np.float64], index: int) -> NDArray[np.float64]:
    """Put a picture together again without one of its bands; its mean stays.

    Args:
        bands: ``(S, H, W, C)`` of ``split_bands``.
        index: Of the band that is left out.

    Returns:
        ``(H, W, C)``.
    """
    others: NDArray[np.float64] = bands.sum(axis=0) - bands[index] + bands[index].mean(axis=(0, 1))
    return others


def _gain(radius: NDArray[np.float64], cutoff: float) -> NDArray[np.float64]:
    """Give the share of each frequency that lies below a cut-off: 1 well below, one half at it, 0 well above."""
    octaves = np.log2(np.maximum(radius, 1e-12) / cutoff) / _OCTAVE
    gain: NDArray[np.float64] = 0.5 - 0.5 * np.sin(math.pi * np.clip(octaves, -0.5, 0.5))
    return gain
