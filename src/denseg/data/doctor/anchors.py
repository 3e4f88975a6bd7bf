# SPDX-License-Identifier: Apache-2.0
"""Places of a picture that a crop of the same scene shows too: small blocks chosen by what they hold, not by where.

Two pictures that share several blocks, all shifted by the same number of pixels, are overlapping crops. Blocks must
agree to the last bit, so crops that were saved with loss apart from each other are not found.

Letters: H and W height and width in pixels, n anchors.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Anchors", "find_anchors", "find_overlaps"]

BLOCK = 8  # pixels of a side
KEPT = 96  # anchors of a picture
CORNERS = 0x25  # in which bits two opposite corners of a block differ
LIVELY = 12  # distinct values that a block must hold: flat ones are everywhere
SHARED = 4  # blocks with one shift that two pictures must share
CROWD = 8  # pictures that share a block: more say that it is a logo or a pattern
_WEIGHTS = np.random.default_rng(0).integers(1, 1 << 62, BLOCK * BLOCK, dtype=np.int64) | 1

Anchors = NDArray[np.int64]


def find_anchors(plane: NDArray[np.uint8]) -> Anchors:
    """Choose blocks of a picture.

    Args:
        plane: ``(H, W)``, one band.

    Returns:
        ``(n, 3)``: what the block holds, as one number, and its row and column.
    """
    height, width = (side - BLOCK + 1 for side in plane.shape)
    if height < BLOCK or width < BLOCK:
        return np.zeros((0, 3), np.int64)
    corners = plane[:height, :width] ^ plane[BLOCK - 1 :, BLOCK - 1 :]  # one place in 256, found in bytes
    rows, columns = np.divmod(np.flatnonzero(corners == CORNERS), width)
    inner = plane[rows + 2, columns + 5] * np.uint8(7) + plane[rows + 5, columns + 3] * np.uint8(13)
    chosen = inner & 0x18 == 0  # and of those one in four
    rows, columns = rows[chosen], columns[chosen]
    if len(rows) == 0:
        return np.zeros((0, 3), np.int64)
    inside = np.arange(BLOCK)
    blocks = plane[rows[:, None, None] + inside[:, None], columns[:, None, None] + inside].reshape(len(rows), -1)
    ordered = np.sort(blocks, axis=1)
    lively = (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1) >= LIVELY - 1
    hashes = blocks[lively].astype(np.int64) @ _WEIGHTS
    order = np.argsort(hashes, kind="stable")[:KEPT]
    return np.stack((hashes[order], rows[lively][order], columns[lively][order]), axis=1)


def find_overlaps(anchors: Sequence[Anchors]) -> list[tuple[int, int, int, int]]:
    """Find pictures that show a part of the same scene.

    Args:
        anchors: Of each picture.

    Returns:
        ``(first, second, rows, columns)``: two pictures, and by how much the second lies below and right of the first.
        Pictures that do not lie apart are copies, not crops, and left out.
    """
    places: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for index, found in enumerate(anchors):
        for value, row, column in found.tolist():
            places[value].append((index, row, column))
    votes: Counter[tuple[int, int, int, int]] = Counter()
    for held in places.values():
        if 2 <= len(held) <= CROWD:
            for (first, top, left), (second, row, column) in combinations(held, 2):
                if first != second:
                    votes[first, second, top - row, left - column] += 1
    return sorted(key for key, count in votes.items() if count >= SHARED and key[2:] != (0, 0))
