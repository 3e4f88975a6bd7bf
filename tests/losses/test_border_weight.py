# SPDX-License-Identifier: Apache-2.0
"""U-Net's weight map against brute force."""

from __future__ import annotations

import math
import re
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from denseg.errors import ShapeError, UsageError
from denseg.losses import BorderWeights, border_weight_map


def brute(cells: NDArray[np.int64], w0: float, sigma: float) -> NDArray[np.float64]:
    height, width = cells.shape
    borders: dict[int, list[tuple[int, int]]] = {}
    for i, j in product(range(height), range(width)):
        around = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
        inside = [0 <= r < height and 0 <= c < width and cells[r, c] == cells[i, j] for r, c in around]
        if cells[i, j] and not all(inside):
            borders.setdefault(int(cells[i, j]), []).append((i, j))
    weight = np.zeros(cells.shape)
    for p in product(range(height), range(width)):
        distances = sorted(min(math.dist(p, q) for q in border) for border in borders.values())
        if len(distances) > 1:
            weight[p] = w0 * math.exp(-((distances[0] + distances[1]) ** 2) / (2 * sigma**2))
    return weight


@pytest.mark.parametrize(("w0", "sigma"), [(10, 5), (10, 1.5), (3, 2)])
def test_equals_brute_force(w0: float, sigma: float) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(24, 31)), 1.5)
    cells = ndimage.label(noise > 0.1, np.ones((3, 3)))[0].astype(np.int64)
    assert cells.max() > 4
    ours = border_weight_map(cells, w0, sigma, balance=False)
    np.testing.assert_allclose(ours, 1 + brute(cells, w0, sigma), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(border_weight_map((cells > 0).astype(np.uint8), w0, sigma, balance=False), ours)


def test_touching_cells_with_numbers_of_their_own_are_two() -> None:
    cells = np.zeros((6, 8), dtype=np.int64)
    cells[1:5, 1:4], cells[1:5, 4:7] = 1, 2
    np.testing.assert_allclose(border_weight_map(cells, balance=False), 1 + brute(cells, 10, 5), rtol=1e-5)
    assert np.array_equal(border_weight_map(cells > 0, balance=False), np.ones((6, 8)))


@pytest.mark.parametrize("cells", [0, 1])
def test_fewer_than_two_cells_leave_the_balance_alone(cells: int) -> None:
    labels = np.zeros((10, 10), dtype=np.int64)
    labels[2:4, 2:4] = cells
    weight = border_weight_map(torch.from_numpy(labels))
    if cells:
        assert weight[labels == 1].sum() == pytest.approx(weight[labels == 0].sum())
    assert weight.mean() == pytest.approx(1)
    assert weight.dtype == np.float32


def test_the_gap_between_near_cells_weighs_most() -> None:
    cells = np.zeros((30, 60), dtype=np.int64)
    cells[5:25, 5:20], cells[5:25, 22:40] = 1, 2
    weight = border_weight_map(cells)
    assert set(np.argwhere(weight == weight.max())[:, 1]) <= {19, 20, 21, 22}
    assert weight[15, 50] < weight[15, 20] / 5


def test_faults_are_named() -> None:
    expected = "labels must be integer (H, W), got float64 (2, 2)"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        border_weight_map(np.zeros((2, 2)))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"^sigma must be above 0 and w0 at least 0, got 0 and 10\.0$"):
        border_weight_map(np.zeros((2, 2), dtype=int), sigma=0)


def test_maps_of_classes_are_those_of_their_cells_and_kept() -> None:
    labels = np.full((30, 40), 2, np.uint8)
    labels[5:20, 3:15] = 0
    labels[5:20, 18:30] = 1
    labels[25:, :] = 255
    cells = np.zeros((30, 40), np.int64)
    cells[5:20, 3:15], cells[5:20, 18:30] = 1, 2
    make = BorderWeights(10, 4, background=2, balance=False)
    made = make(labels)
    np.testing.assert_array_equal(made, border_weight_map(cells, 10, 4, balance=False))
    assert make(labels.copy()) is made
    assert make(labels.T) is not made


def test_old_maps_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("denseg.losses.border_weight._KEPT_BYTES", 2 * 4 * 20 * 20)
    make = BorderWeights()
    pictures = [np.eye(20, dtype=np.uint8) * value for value in (1, 2, 3)]
    first = make(pictures[0])
    make(pictures[1])
    assert make(pictures[0]) is first
    make(pictures[2])
    assert make(pictures[0]) is not first


def test_a_bad_width_is_refused_at_once() -> None:
    with pytest.raises(UsageError) as error:
        BorderWeights(10, 0)
    assert str(error.value) == "sigma must be above 0 and w0 at least 0, got 0 and 10"
