# SPDX-License-Identifier: Apache-2.0
"""Gaussian filtering of any dimension in linear time: the permutohedral lattice.

Paper:
    A. Adams, J. Baek, M. A. Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics
    2010, Sections 3 and 4.

A pixel with d features is a point of R^d. The points are laid on the hyperplane of R^(d+1) whose coordinates sum to 0,
which the lattice divides into simplices of d + 1 vertices. Each pixel gives its value to the vertices around it
(splat), neighbouring vertices mix along the d + 1 directions of the lattice (blur), and each pixel reads its vertices
again (slice). The vertices around the points of an image are few; they are found by a hash table.

A vertex is stored as one 64-bit number: its coordinates as digits of a mixed radix. A step to a neighbour is then one
addition, the same for all vertices, and the neighbours of all vertices are found by merging sorted lists.

The loops are compiled and release the interpreter's lock: threads of Python run them on slices of the pixels or
vertices. No two threads write the same place, so the result has the same bits for any number of threads.

Shape letters: N pixels, d features, M vertices, K values per pixel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from denseg.errors import UsageError
from denseg.inference.row_sum import sum_rows

__all__ = ["Lattice", "blur", "build_lattice", "run_chunks", "slice_onto", "splat"]

Array = npt.NDArray[Any]

CHUNK = 4096
"""Fewest pixels or vertices that are worth a thread of their own."""


class Lattice(NamedTuple):
    """Where N points lie on the lattice, and who is whose neighbour.

    Attributes:
        vertices: ``(N, d + 1)`` int32, the vertices around each point, 0..M-1.
        weights: ``(N, d + 1)`` float32, barycentric coordinates; each row sums to 1.
        neighbours: ``(d + 1, M, 2)`` int32, the vertex before and after each along each direction; M where there is
            none.
        starts: ``(M + 1,)`` int64: around vertex ``v`` lie ``points[starts[v] : starts[v + 1]]``.
        points: ``(N * (d + 1),)`` int32, ordered by vertex.
        masses: ``(N * (d + 1),)`` float32, the weight of each of these points at that vertex.
    """

    vertices: Array
    weights: Array
    neighbours: Array
    starts: Array
    points: Array
    masses: Array

    @property
    def size(self) -> int:
        """M, the number of vertices."""
        return int(self.neighbours.shape[1])


def build_lattice(features: npt.NDArray[np.float32], *, pool: ThreadPoolExecutor | None = None) -> Lattice:
    """Find the vertices around points.

    Args:
        features: ``(N, d)`` float32, divided by the standard deviation of the Gaussian along each axis.
        pool: Threads to use; this one alone if ``None``.

    Returns:
        The lattice.

    Raises:
        UsageError: The features are not finite, or spread over more lattice cells than can be told apart.
    """
    count, d = features.shape
    if not np.isfinite(features.sum(dtype=np.float64)):
        raise UsageError("the features of a lattice must be finite; the image holds NaN or infinity")
    elevated = np.ascontiguousarray(features, np.float32) @ _elevation(d)  # (N, d + 1), each row sums to 0
    low = np.floor(elevated.min(axis=0)[:d]).astype(np.int64) - 3 * (d + 1)
    spans = np.ceil(elevated.max(axis=0)[:d]).astype(np.int64) + 3 * (d + 1) - low + 1
    if math.log2(max(1, math.prod(int(span) for span in spans))) > 62:
        raise UsageError(
            "the image's values are spread too far for these standard deviations of the CRF; give larger ones"
        )
    radix = np.cumprod(np.concatenate(([1], spans[:-1]))).astype(np.int64)  # (d,)
    keys = np.empty((count, d + 1), np.int64)
    weights = np.empty((count, d + 1), np.float32)
    run_chunks(pool, count, _place, elevated, low, radix, keys, weights)
    vertices = np.empty((count, d + 1), np.int32)
    found = _number(keys, vertices)
    order = np.argsort(found)  # by key, the neighbours of successive vertices are successive, too
    place = np.empty(len(found), np.int32)
    place[order] = np.arange(len(found), dtype=np.int32)
    run_chunks(pool, count, _renumber, place, vertices)
    steps = np.concatenate((radix * (d + 1) - radix.sum(), [-radix.sum()])).astype(np.int64)
    neighbours = np.empty((d + 1, len(found), 2), np.int32)
    run_chunks(pool, d + 1, _look, found[order], steps, neighbours, least=1)
    return Lattice(vertices, weights, neighbours, *_group(vertices, weights, len(found)))


def _elevation(d: int) -> npt.NDArray[np.float32]:
    """The map from d features to the hyperplane, scaled so that splat, blur and slice have variance 1 (Section 3)."""
    matrix = np.zeros((d, d + 1))
    for row in range(d):
        scale = math.sqrt(2 / 3) * (d + 1) / math.sqrt((row + 1) * (row + 2))
        matrix[row, : row + 1] = scale
        matrix[row, row + 1] = -scale * (row + 1)
    return matrix.astype(np.float32)


def run_chunks(
    pool: ThreadPoolExecutor | None, count: int, work: Callable[..., Any], *arguments: Any, least: int = CHUNK
) -> None:
    """Call ``work(first, last, *arguments)`` on slices of ``0..count``, one per thread.

    Args:
        pool: The threads; this one alone if ``None``.
        count: Items.
        work: A compiled loop over ``first..last-1``.
        *arguments: Given on.
        least: Fewest items that are worth a thread of their own.
    """
    threads = 1 if pool is None else pool._max_workers
    pieces = max(1, min(threads, count // least))
    if pool is None or pieces == 1:
        work(0, count, *arguments)
        return
    edges = [count * piece // pieces for piece in range(pieces + 1)]
    jobs = [pool.submit(work, first, last, *arguments) for first, last in itertools.pairwise(edges)]
    for job in jobs:
        job.result()


@njit(nogil=True, cache=True)
def _place(first, last, elevated, low, radix, keys, weights):  # type: ignore[no-untyped-def] # pragma: no cover
    """Find the simplex around each point: its vertices' keys and the barycentric coordinates (Section 3.1)."""
    d = elevated.shape[1] - 1
    rounded = np.empty(d + 1, np.int64)
    rank = np.empty(d + 1, np.int64)
    offset = np.empty(d + 1, np.float32)
    mass = np.empty(d + 2, np.float32)
    for point in range(first, last):
        total = 0
        for i in range(d + 1):  # the nearest point whose coordinates are all multiples of d + 1
            rounded[i] = np.int64(np.rint(elevated[point, i] / np.float32(d + 1)))
            total += rounded[i]
            offset[i] = elevated[point, i] - np.float32(rounded[i] * (d + 1))
            rank[i] = 0
        for i in range(d + 1):  # the order of the differences names the simplex
            for j in range(i + 1, d + 1):
                if offset[i] < offset[j]:
                    rank[i] += 1
                else:
                    rank[j] += 1
        for i in range(d + 1):  # bring the sum of the coordinates back to 0
            rank[i] += total
            if rank[i] < 0:
                rank[i] += d + 1
                rounded[i] += 1
            elif rank[i] > d:
                rank[i] -= d + 1
                rounded[i] -= 1
            offset[i] = (elevated[point, i] - np.float32(rounded[i] * (d + 1))) / np.float32(d + 1)
        mass[:] = 0
        for i in range(d + 1):
            mass[d - rank[i]] += offset[i]
            mass[d + 1 - rank[i]] -= offset[i]
        mass[0] += np.float32(1) + mass[d + 1]
        for k in range(d + 1):  # vertex k has coordinates of remainder k
            key = 0
            for i in range(d):
                step = k if rank[i] <= d - k else k - (d + 1)
                key += (rounded[i] * (d + 1) + step - low[i]) * radix[i]
            keys[point, k] = key
            weights[point, k] = mass[k]


@njit(nogil=True, cache=True)
def _slot(key, mask):  # type: ignore[no-untyped-def] # pragma: no cover
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64((mixed ^ (mixed >> np.uint64(29))) >> np.uint64(16)) & mask


@njit(nogil=True, cache=True)
def _number(keys, vertices):  # type: ignore[no-untyped-def] # pragma: no cover
    """Number the different keys in the order in which they appear."""
    size = 1 << 12
    table = np.full(size, -1, np.int64)
    numbers = np.empty(size, np.int32)
    found = np.empty(size // 2, np.int64)
    count = 0
    for point in range(keys.shape[0]):
        for k in range(keys.shape[1]):
            key = keys[point, k]
            if point > 0 and keys[point - 1, k] == key:
                vertices[point, k] = vertices[point - 1, k]
                continue
            slot = _slot(key, size - 1)
            while table[slot] != -1 and table[slot] != key:
                slot = (slot + 1) & (size - 1)
            if table[slot] == key:
                vertices[point, k] = numbers[slot]
                continue
            table[slot] = key
            numbers[slot] = count
            found[count] = key
            vertices[point, k] = count
            count += 1
            if count == size // 2:  # half full: twice the room
                size *= 2
                table = np.full(size, -1, np.int64)
                numbers = np.empty(size, np.int32)
                larger = np.empty(size // 2, np.int64)
                larger[:count] = found
                found = larger
                for number in range(count):
                    slot = _slot(found[number], size - 1)
                    while table[slot] != -1:
                        slot = (slot + 1) & (size - 1)
                    table[slot] = found[number]
                    numbers[slot] = number
    return found[:count].copy()


@njit(nogil=True, cache=True)
def _renumber(first, last, place, vertices):  # type: ignore[no-untyped-def] # pragma: no cover
    for point in range(first, last):
        for k in range(vertices.shape[1]):
            vertices[point, k] = place[vertices[point, k]]


@njit(nogil=True, cache=True)
def _look(first, last, keys, steps, neighbours):  # type: ignore[no-untyped-def] # pragma: no cover
    """Find the vertices one step before and after each, for directions ``first..last-1``: two sorted lists, merged."""
    for direction in range(first, last):
        for side in range(2):
            step = steps[direction] if side else -steps[direction]
            place = 0
            for vertex in range(len(keys)):
                wanted = keys[vertex] + step
                while place < len(keys) and keys[place] < wanted:
                    place += 1
                there = place < len(keys) and keys[place] == wanted
                neighbours[direction, vertex, side] = place if there else len(keys)


@njit(nogil=True, cache=True)
def _group(vertices, weights, count):  # type: ignore[no-untyped-def] # pragma: no cover
    """Order the pairs of point and vertex by vertex (counting sort)."""
    starts = np.zeros(count + 1, np.int64)
    for point in range(vertices.shape[0]):
        for k in range(vertices.shape[1]):
            starts[vertices[point, k] + 1] += 1
    for vertex in range(count):
        starts[vertex + 1] += starts[vertex]
    place = starts[:-1].copy()
    points = np.empty(vertices.size, np.int32)
    masses = np.empty(vertices.size, np.float32)
    for point in range(vertices.shape[0]):
        for k in range(vertices.shape[1]):
            vertex = vertices[point, k]
            points[place[vertex]] = point
            masses[place[vertex]] = weights[point, k]
            place[vertex] += 1
    return starts, points, masses


@njit(nogil=True, cache=True)
def splat(first, last, starts, points, masses, values, zeros, result):  # type: ignore[no-untyped-def] # pragma: no cover
    """Sum the values ``(N, K)`` of the points around each vertex."""
    for vertex in range(first, last):
        sum_rows(result, vertex, zeros, 0, values, points, masses, starts[vertex], starts[vertex + 1])


@njit(nogil=True, cache=True)
def blur(first, last, neighbours, halves, source, result):  # type: ignore[no-untyped-def] # pragma: no cover
    """Mix each vertex with half of its two neighbours; ``source[M]`` is 0."""
    for vertex in range(first, last):
        sum_rows(result, vertex, source, vertex, source, neighbours[vertex], halves, 0, 2)


@njit(nogil=True, cache=True)
def slice_onto(first, last, vertices, weights, values, base, result):  # type: ignore[no-untyped-def] # pragma: no cover
    """Let each point read its vertices again, and add what it reads to ``base``."""
    for point in range(first, last):
        sum_rows(result, point, base, point, values, vertices[point], weights[point], 0, vertices.shape[1])
