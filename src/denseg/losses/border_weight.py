# SPDX-License-Identifier: Apache-2.0
"""U-Net's weight map: gaps between cells that nearly touch count more.

Paper:
    O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
    MICCAI 2015. https://arxiv.org/abs/1505.04597 - Equation 2.
Departures from the paper:
    The paper says that the first term balances the classes, not how: here each class (cell, background) has the same
    total weight, and the mean over the image is 1. With fewer than two cells there is no second distance, and the
    second term is 0.

Shape letters: H and W height and width, L cells.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage
from torch import Tensor

from denseg.errors import ShapeError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BorderWeights", "border_weight_map"]

_KEPT_BYTES = 256 << 20


class BorderWeights:
    """Makes the maps of pictures of classes, for any model's training; a picture's map is computed once.

    Every class but the background is cells: regions of one class that do not touch are told apart.
    """

    def __init__(
        self,
        w0: float = 10.0,
        sigma: float = 5.0,
        *,
        background: int = 0,
        ignore_index: int = 255,
        balance: bool = True,
    ) -> None:
        """Keep the options.

        Args:
            w0: Weight of a gap of width 0.
            sigma: Width of gaps that count, in pixels.
            background: The class between the cells.
            ignore_index: Label without a class; counts as background.
            balance: Whether cells and background get the same total weight.

        Raises:
            UsageError: ``sigma`` is not positive or ``w0`` is negative.
        """
        if sigma <= 0 or w0 < 0:
            raise UsageError(f"sigma must be above 0 and w0 at least 0, got {sigma} and {w0}")
        self.w0 = w0
        self.sigma = sigma
        self.background = background
        self.ignore_index = ignore_index
        self.balance = balance
        self._kept: dict[bytes, NDArray[np.float32]] = {}
        self._bytes = 0

    def __call__(self, labels: NDArray[Any]) -> NDArray[np.float32]:
        """Make the map of one picture.

        Args:
            labels: ``(H, W)`` classes.

        Returns:
            ``(H, W)``; not to be written into.
        """
        key = hashlib.blake2b(np.ascontiguousarray(labels).tobytes() + repr(labels.shape).encode()).digest()
        if key not in self._kept:
            outside = (labels == self.background) | (labels == self.ignore_index)
            cells = np.where(outside, 0, labels.astype(np.int64) + 1)
            self._kept[key] = border_weight_map(cells, self.w0, self.sigma, balance=self.balance)
            self._bytes += self._kept[key].nbytes
            while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
                self._bytes -= self._kept.pop(next(iter(self._kept))).nbytes
        return self._kept[key]


def border_weight_map(
    labels: Tensor | NDArray[np.integer], w0: float = 10.0, sigma: float = 5.0, *, balance: bool = True
) -> NDArray[np.float32]:
    """Compute ``w_c + w0 * exp(-(d1 + d2) ** 2 / (2 * sigma ** 2))``.

    d1 and d2 are the distances to the nearest and to the second nearest cell's border: its pixels that touch (above,
    below, left or right) another label or the edge of the image.

    Args:
        labels: ``(H, W)`` integers: 0 is background; a number per cell, or one for all: cells of one number that do not
            touch, also not diagonally, are told apart.
        w0: Weight of a gap of width 0.
        sigma: Width of gaps that count, in pixels.
        balance: Whether w_c balances cells against background; 1 everywhere otherwise.

    Returns:
        ``(H, W)`` float32.

    Raises:
        ShapeError: ``labels`` is not ``(H, W)`` integers.
        UsageError: ``sigma`` is not positive or ``w0`` is negative.
    """
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.ndim != 2 or array.dtype.kind not in "biu":
        raise ShapeError(f"labels must be integer (H, W), got {array.dtype} {array.shape}")
    if sigma <= 0 or w0 < 0:
        raise UsageError(f"sigma must be above 0 and w0 at least 0, got {sigma} and {w0}")
    cells = _cells(array.astype(np.int64))
    weight = _balance(cells > 0) if balance else np.ones(cells.shape)
    nearest, second = _two_nearest(cells, reach=sigma * math.sqrt(2 * math.log(max(w0, 1) / 1e-9)))
    return (weight + w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))).astype(np.float32)


def _cells(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the cells from 1: connected regions, diagonals included, of one number each."""
    cells = np.zeros(labels.shape, dtype=np.int64)
    count = 0
    for value in np.unique(labels[labels != 0]):
        regions, found = ndimage.label(labels == value, np.ones((3, 3)))
        cells[regions > 0] = regions[regions > 0] + count
        count += found
    return cells


def _balance(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    share = inside.mean()
    if share in {0.0, 1.0}:
        return np.ones(inside.shape)
    return np.asarray(np.where(inside, 0.5 / share, 0.5 / (1 - share)))


def _two_nearest(cells: NDArray[np.int64], reach: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the distances to the nearest and second nearest cell's border; infinity from ``reach`` on."""
    nearest, second = np.full((2, *cells.shape), np.inf)
    margin = math.ceil(reach)
    for number, box in enumerate(ndimage.find_objects(cells), start=1):
        if box is None:
            continue
        window = tuple(
            slice(max(0, side.start - margin), min(length, side.stop + margin))
            for side, length in zip(box, cells.shape, strict=True)
        )
        inside = cells[window] == number
        whole = np.pad(cells == number, 1)[tuple(slice(side.start, side.stop + 2) for side in window)]
        border = inside & ~ndimage.binary_erosion(whole)[1:-1, 1:-1]
        distance = ndimage.distance_transform_edt(~border)
        second[window] = np.minimum(second[window], np.maximum(nearest[window], distance))
        nearest[window] = np.minimum(nearest[window], distance)
    return nearest, second
