# SPDX-License-Identifier: Apache-2.0
"""Connected areas agree with SciPy's labels, value by value."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from denseg.data.doctor.shapes import boundary_share, connected_areas


def spiral(size: int) -> np.ndarray:
    """One area that winds through the whole picture: the worst case for joining runs."""
    codes = np.zeros((size, size), np.uint8)
    row, column, step, turn = 0, 0, (0, 1), 0
    codes[0, 0] = 1
    while turn < 2:
        a, b = row + step[0], column + step[1]
        c, d = a + step[0], b + step[1]
        free = 0 <= a < size and 0 <= b < size and not codes[a, b]
        ahead = not (0 <= c < size and 0 <= d < size) or not codes[c, d]
        if free and ahead:
            row, column, turn = a, b, 0
            codes[row, column] = 1
        else:
            step, turn = (step[1], -step[0]), turn + 1
    return codes


CASES = {
    "noise": np.random.default_rng(0).integers(0, 3, (40, 53)).astype(np.uint8),
    "blocks": np.kron(np.random.default_rng(1).integers(0, 5, (6, 9)), np.ones((7, 5), int)),
    "negative": np.random.default_rng(2).integers(-2, 1, (20, 20)),
    "one": np.full((9, 4), 7, np.uint16),
    "pixel": np.zeros((1, 1), np.uint8),
    "row": np.asarray([[1, 1, 2, 1]], np.uint8),
    "column": np.asarray([[1], [1], [2], [1]], np.uint8),
    "spiral": spiral(41),
}


@pytest.mark.parametrize("name", CASES)
def test_areas_agree_with_scipy(name: str) -> None:
    codes = CASES[name]
    values, pixels = connected_areas(codes)
    assert int(pixels.sum()) == codes.size
    for value in np.unique(codes):
        labels, count = ndimage.label(codes == value)
        expected = np.sort(np.bincount(labels.ravel())[1:])
        assert (values == value).sum() == count
        np.testing.assert_array_equal(np.sort(pixels[values == value]), expected)


def test_boundaries() -> None:
    assert boundary_share(np.zeros((5, 5), int)) == 0
    assert boundary_share(np.asarray([[0, 1], [0, 0]])) == 0.5
