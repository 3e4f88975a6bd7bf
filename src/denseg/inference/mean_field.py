# SPDX-License-Identifier: Apache-2.0
"""Mean-field inference of a dense CRF on the CPU: the loops of :mod:`denseg.inference.lattice`, class by class in rows.

Shape letters: N pixels, K classes (rounded up to ``LANES`` inside), M vertices.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from numba import njit

from denseg.errors import UsageError
from denseg.inference.lattice import Lattice, blur, build_lattice, run_chunks, slice_onto, splat
from denseg.inference.row_sum import LANES

__all__ = ["Kernel", "Normalizer", "make_kernel", "mean_field", "thread_count"]

Array = npt.NDArray[Any]
Normalizer = Literal["symmetric", "before", "after", "global"]

NEVER = -1e30
"""Log probability of a class that is only padding."""
TINY = 1e-20
"""Added to what is divided by, as in the published code."""


@dataclass(frozen=True)
class Kernel:
    """One Gaussian kernel over the pixels of an image, normalised and weighted.

    Attributes:
        lattice: Where the pixels lie.
        before: ``(N,)`` float32, each pixel's value is multiplied by it before the filter.
        after: ``(N,)`` float32, and by this after.
    """

    lattice: Lattice
    before: npt.NDArray[np.float32]
    after: npt.NDArray[np.float32]


def thread_count() -> int:
    """Say how many threads this process may use: its processors, or ``OMP_NUM_THREADS`` where that is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    said = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(said) if said.isdecimal() and int(said) else cores))


def make_kernel(
    features: npt.NDArray[np.float32],
    *,
    normalize: Normalizer = "symmetric",
    pool: ThreadPoolExecutor | None = None,
) -> Kernel:
    """Build a kernel, normalised by how much mass the unnormalised one gathers at each pixel.

    Args:
        features: ``(N, d)``, divided by the standard deviations.
        normalize: ``symmetric`` multiplies by ``1 / sqrt(mass)`` before and after; ``before`` and ``after`` by
            ``1 / mass`` on one side; ``global`` by N over the sum of the masses.
        pool: Threads to use; this one alone if ``None``.

    Returns:
        The kernel.

    Raises:
        UsageError: ``normalize`` is none of these.
    """
    if normalize not in ("symmetric", "before", "after", "global"):
        raise UsageError(f"a CRF kernel is normalised 'symmetric', 'before', 'after' or 'global', got {normalize!r}")
    lattice = build_lattice(features, pool=pool)
    d = features.shape[1]
    ones = np.ones(len(features), np.float32)
    # A slice of the lattice gathers more than 1 around each pixel: Adams' constant brings it back.
    plain = Kernel(lattice, ones, np.full_like(ones, 1 / (1 + 2.0**-d)))
    mass = filter_rows(plain, np.ones((len(features), LANES), np.float32), pool=pool)[:, 0].astype(np.float64)
    if normalize == "symmetric":
        root = (1 / np.sqrt(mass + TINY)).astype(np.float32)
        return Kernel(lattice, root, plain.after * root)
    if normalize == "global":
        return Kernel(lattice, ones, (plain.after * (len(features) / (mass.sum() + TINY))).astype(np.float32))
    inverse = (1 / (mass + TINY)).astype(np.float32)
    return (
        Kernel(lattice, inverse, plain.after) if normalize == "before" else Kernel(lattice, ones, plain.after * inverse)
    )


def filter_rows(kernel: Kernel, values: Array, *, pool: ThreadPoolExecutor | None = None) -> npt.NDArray[np.float32]:
    """Filter values.

    Args:
        kernel: Which.
        values: ``(N, K)`` float32, K a multiple of ``LANES``.
        pool: Threads to use; this one alone if ``None``.

    Returns:
        ``(N, K)``.
    """
    shape = (kernel.lattice.size + 1, values.shape[1])
    scratch = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    out = np.zeros_like(values)
    _filter(_Weighted.of(kernel, 1.0), values, out, out, scratch, pool)
    return out


def mean_field(
    unary: npt.NDArray[np.float32],
    kernels: Sequence[tuple[Kernel, float]],
    *,
    iterations: int,
    pool: ThreadPoolExecutor | None = None,
) -> npt.NDArray[np.float32]:
    """Refine class probabilities with a Potts model.

    Args:
        unary: ``(N, K)`` float32, log probabilities.
        kernels: Each kernel with its weight.
        iterations: How often; 0 gives the softmax of ``unary``.
        pool: Threads to use; this one alone if ``None``.

    Returns:
        ``(N, K)`` probabilities.
    """
    count, classes = unary.shape
    padded = np.full((count, -(-classes // LANES) * LANES), NEVER, np.float32)
    padded[:, :classes] = unary
    weighted = [_Weighted.of(kernel, weight) for kernel, weight in kernels]
    largest = max((part.kernel.lattice.size for part in weighted), default=0)
    scratch = [np.zeros((largest + 1, padded.shape[1]), np.float32) for _ in range(2)]
    probabilities = np.empty_like(padded)
    logits = np.empty_like(padded)
    run_chunks(pool, count, _softmax, padded, probabilities)
    for _ in range(iterations):
        base = padded
        for part in weighted:
            _filter(part, probabilities, base, logits, (scratch[0], scratch[1]), pool)
            base = logits
        run_chunks(pool, count, _softmax, base, probabilities)
    return np.ascontiguousarray(probabilities[:, :classes])


@dataclass(frozen=True)
class _Weighted:
    """A kernel whose normalisation and weight are multiplied into the lattice's own weights."""

    kernel: Kernel
    masses: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]

    @classmethod
    def of(cls, kernel: Kernel, weight: float) -> _Weighted:
        lattice = kernel.lattice
        after = (kernel.after * np.float32(weight))[:, None]
        return cls(kernel, lattice.masses * kernel.before[lattice.points], lattice.weights * after)


def _filter(
    part: _Weighted,
    values: Array,
    base: Array,
    out: Array,
    scratch: tuple[Array, Array],
    pool: ThreadPoolExecutor | None,
) -> None:
    """Put ``base`` plus the filtered values into ``out``, which may be ``base``."""
    lattice = part.kernel.lattice
    source, target = scratch[0][: lattice.size + 1], scratch[1][: lattice.size + 1]
    source[-1] = target[-1] = 0
    zeros, halves = np.zeros((1, values.shape[1]), np.float32), np.full(2, 0.5, np.float32)
    run_chunks(pool, lattice.size, splat, lattice.starts, lattice.points, part.masses, values, zeros, source)
    for neighbours in lattice.neighbours:
        run_chunks(pool, lattice.size, blur, neighbours, halves, source, target)
        source, target = target, source
    run_chunks(pool, len(values), slice_onto, lattice.vertices, part.weights, source, base, out)


@njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nnan", "ninf", "nsz"})
def _softmax(first, last, logits, result):  # type: ignore[no-untyped-def] # pragma: no cover
    """Softmax over the classes of each pixel; exp(x) is 2 ** n times a polynomial of degree 6, which vectorises."""
    for point in range(first, last):
        row, out = logits[point], result[point]
        largest = row[0]
        for k in range(len(out)):
            largest = max(largest, row[k])
        total = np.float32(0)
        for k in range(len(out)):
            power = max((row[k] - largest) * np.float32(1.4426950408889634), np.float32(-126))
            whole = np.rint(power)
            x = (power - whole) * np.float32(0.6931471805599453)
            value = np.float32(1 / 720)
            value = value * x + np.float32(1 / 120)
            value = value * x + np.float32(1 / 24)
            value = value * x + np.float32(1 / 6)
            value = value * x + np.float32(0.5)
            value = value * x + np.float32(1)
            value = value * x + np.float32(1)
            bits = np.int32((np.int32(whole) + np.int32(127)) << np.int32(23))
            out[k] = value * bits.view(np.float32)
            total += out[k]
        inverse = np.float32(1) / total
        for k in range(len(out)):
            out[k] *= inverse
