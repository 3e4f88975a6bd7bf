# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from denseg.errors import UsageError
from denseg.inference.lattice import build_lattice
from denseg.inference.mean_field import LANES, filter_rows, make_kernel


def points(count: int, d: int, spread: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(d).random((count, d)) * spread).astype(np.float32)


@pytest.mark.parametrize("d", [1, 2, 3, 5, 7])
def test_each_point_lies_in_the_simplex_of_its_vertices(d: int) -> None:
    """Barycentric coordinates are positive, sum to 1, and give the point back; the definition of the lattice."""
    features = points(400, d)
    lattice = build_lattice(features)
    assert lattice.weights.min() >= -1e-5
    np.testing.assert_allclose(lattice.weights.sum(axis=1), 1, atol=1e-5)
    # a step along direction j adds d + 1 to coordinate j and takes 1 from all: walk from vertex to vertex
    assert lattice.vertices.max() == lattice.size - 1
    assert {int(v) for v in np.unique(lattice.vertices)} == set(range(lattice.size))
    for direction in range(d + 1):
        before, after = lattice.neighbours[direction].T
        there = after < lattice.size
        np.testing.assert_array_equal(before[after[there]], np.flatnonzero(there))
    everyone = lattice.neighbours[..., 1]
    for first, second in itertools.combinations(range(d + 1), 2):  # steps commute: the neighbours form a lattice
        inside = (everyone[first] < lattice.size) & (everyone[second] < lattice.size)
        one, other = everyone[second][everyone[first][inside]], everyone[first][everyone[second][inside]]
        both = (one < lattice.size) & (other < lattice.size)
        np.testing.assert_array_equal(one[both], other[both])


def test_grouped_points_are_the_vertices_seen_from_the_other_side() -> None:
    lattice = build_lattice(points(300, 3))
    matrix = np.zeros((300, lattice.size), np.float32)
    np.add.at(matrix, (np.arange(300)[:, None], lattice.vertices), lattice.weights)
    other = np.zeros_like(matrix)
    of_vertex = np.repeat(np.arange(lattice.size), np.diff(lattice.starts))
    np.add.at(other, (lattice.points, of_vertex), lattice.masses)
    np.testing.assert_array_equal(matrix, other)


@pytest.mark.parametrize(("d", "tolerance"), [(1, 0.05), (2, 0.05), (3, 0.06), (5, 0.12)])
def test_filter_is_a_gaussian(d: int, tolerance: float) -> None:
    features = points(700, d)
    values = np.stack([np.sin(features.sum(axis=1) * (k + 1) / 8) for k in range(LANES)], axis=1)
    exact = np.exp(-0.5 * ((features[:, None] - features[None]) ** 2).sum(-1))
    exact_mean = exact @ values / exact.sum(axis=1, keepdims=True)
    kernel = make_kernel(features, normalize="after")
    filtered = filter_rows(kernel, values)
    assert np.abs(filtered - exact_mean).mean() / exact_mean.std() < tolerance


def test_one_point_alone_keeps_its_value() -> None:
    kernel = make_kernel(np.zeros((1, 2), np.float32), normalize="after")
    value = np.arange(LANES, dtype=np.float32)[None]
    np.testing.assert_allclose(filter_rows(kernel, value), value, rtol=1e-6)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    features = points(20_000, 4, spread=9)
    values = np.random.default_rng(1).random((20_000, 3 * LANES)).astype(np.float32)
    alone = filter_rows(make_kernel(features), values)
    with ThreadPoolExecutor(3) as pool:
        together = filter_rows(make_kernel(features, pool=pool), values, pool=pool)
    np.testing.assert_array_equal(alone, together)


@pytest.mark.parametrize("normalize", ["symmetric", "before", "after", "global"])
def test_normalizations_by_their_formula(normalize: str) -> None:
    features = points(200, 2)
    values = np.random.default_rng(1).random((200, LANES)).astype(np.float32)
    eye = np.zeros((200, 200), np.float32)
    np.fill_diagonal(eye, 1)
    plain = filter_rows(make_kernel(features, normalize="global"), eye).astype(np.float64)
    plain /= plain.sum() / 200  # sum of the masses is N, whatever the constant before was
    mass = plain.sum(axis=1, keepdims=True)
    expected = {
        "global": plain,
        "after": plain / mass,
        "before": plain / mass.T,
        "symmetric": plain / np.sqrt(mass) / np.sqrt(mass.T),
    }[normalize]
    # mass measured by filtering ones is the row sum up to the order of the blurs
    np.testing.assert_allclose(
        filter_rows(make_kernel(features, normalize=normalize), values), expected @ values, rtol=0.01
    )


def test_bad_input_is_said() -> None:
    with pytest.raises(
        UsageError, match=r"^the features of a lattice must be finite; the image holds NaN or infinity$"
    ):
        build_lattice(np.full((4, 2), np.nan, np.float32))
    wide = np.array([[0.0] * 5, [3e4] * 5], np.float32)
    message = r"^the image's values are spread too far for these standard deviations of the CRF; give larger ones$"
    with pytest.raises(UsageError, match=message):
        build_lattice(wide)
    message = r"^a CRF kernel is normalised 'symmetric', 'before', 'after' or 'global', got 'none'$"
    with pytest.raises(UsageError, match=message):
        make_kernel(np.zeros((1, 2), np.float32), normalize="none")  # type: ignore[arg-type]
