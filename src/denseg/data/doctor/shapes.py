# SPDX-License-Identifier: Apache-2.0
"""Boundaries and connected areas of a mask, all values in one pass, without a library that takes longer to load.

Letters: H and W height and width in pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["boundary_share", "connected_areas"]


def boundary_share(codes: NDArray[Any]) -> float:
    """Give the share of pixels whose right or lower neighbour holds another value.

    Args:
        codes: ``(H, W)``.

    Returns:
        0 to 1.
    """
    edge = np.zeros(codes.shape, bool)
    edge[:, :-1] |= codes[:, :-1] != codes[:, 1:]
    edge[:-1] |= codes[:-1] != codes[1:]
    return float(edge.mean())


def connected_areas(codes: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the areas of equal value, connected over sides.

    Args:
        codes: ``(H, W)``.

    Returns:
        Value and pixels of each area, in the order of their first pixel.
    """
    starts = np.ones(codes.shape, bool)
    starts[:, 1:] = codes[:, 1:] != codes[:, :-1]
    runs = np.cumsum(starts.reshape(-1)).reshape(codes.shape) - 1  # which run along a row a pixel is in
    below = codes[:-1] == codes[1:]
    joins = np.unique(runs[:-1][below] * np.int64(runs[-1, -1] + 1) + runs[1:][below])
    first, second = np.divmod(joins, np.int64(runs[-1, -1] + 1))
    parent = np.arange(runs[-1, -1] + 1)
    while True:
        a, b = parent[first], parent[second]
        least = np.minimum(a, b)
        if bool((a == b).all()):
            break
        np.minimum.at(parent, a, least)
        np.minimum.at(parent, b, least)
        while bool((parent != parent[parent]).any()):
            parent = parent[parent]
    lengths = np.bincount(runs.reshape(-1))
    pixels = np.bincount(parent, lengths, len(parent)).astype(np.int64)
    roots = np.flatnonzero(parent == np.arange(len(parent)))
    return codes[starts].astype(np.int64)[roots], pixels[roots]
