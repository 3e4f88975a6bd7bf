# SPDX-License-Identifier: Apache-2.0
"""Maxima of many windows with the places they came from, compiled: plane by plane, all windows while it is in cache.

torch's pooling makes one pass over the whole map per window and keeps places in eight bytes; here a plane is read once,
each window is composed from the one before it, row by row and column by column, and places take four bytes. The
gradient is one addition per window and position.

Shape letters: P planes (batch times channels), h and w height and width, n windows, R largest radius.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["can_compile", "compiled_max_pyramid"]

_COMPILE_FROM = 1 << 16  # values; below, torch's pooling takes less time than the compiler


def can_compile(x: Tensor) -> bool:
    """Tell whether the compiled form takes a map and is worth it.

    Args:
        x: ``(B, C, h, w)``.

    Returns:
        True for large maps of 32 or 64 bits on the CPU, outside of tracing.
    """
    return (
        x.device.type == "cpu"
        and x.dtype in {torch.float32, torch.float64}
        and x.numel() >= _COMPILE_FROM
        and x.shape[2] * x.shape[3] < 2**31
    )


def compiled_max_pyramid(x: Tensor, windows: Sequence[int]) -> tuple[Tensor, ...]:
    """Take the maxima of clipped windows, with a gradient.

    Args:
        x: ``(B, C, h, w)``, see ``can_compile``.
        windows: Odd, ascending, each once.

    Returns:
        For each window ``(B, C, h, w)``.
    """
    maxima: tuple[Tensor, ...] = _MaxPyramid.apply(x, tuple(windows))
    return maxima


class _MaxPyramid(torch.autograd.Function):
    """Maxima forward, one addition per window and position back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, windows: tuple[int, ...]) -> tuple[Tensor, ...]:
        planes = x.detach().contiguous().flatten(0, 1)  # (P, h, w)
        values = torch.empty(len(windows), *planes.shape, dtype=x.dtype)
        places = torch.empty(values.shape, dtype=torch.int32)
        sides = np.asarray(windows, dtype=np.int64)

        def pool(start: int, stop: int) -> None:
            part = slice(start, stop)
            _compiled()(planes[part].numpy(), sides, values[:, part].numpy(), places[:, part].numpy())

        _share(len(planes), pool)
        ctx.save_for_backward(places)
        ctx.shape = x.shape
        return tuple(values.view(len(windows), *x.shape).unbind())  # n of (B, C, h, w)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        total = torch.zeros(places.shape[1], places.shape[2] * places.shape[3], dtype=grads[0].dtype)  # (P, h * w)
        for index, grad in enumerate(grads):
            total.scatter_add_(1, places[index].flatten(1).long(), grad.flatten(0, 1).flatten(1))
        return total.view(ctx.shape), None


def _share(count: int, work: Callable[[int, int], None]) -> None:
    """Part the planes among as many threads as torch uses."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        work(0, count)
        return
    bounds = [count * part // threads for part in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, bounds[:-1], bounds[1:]))


@functools.cache
def _compiled() -> Callable[..., None]:
    import numba

    try:
        compiled: Callable[..., None] = numba.njit(cache=True, nogil=True)(_pool)
    except RuntimeError:  # no folder to keep compiled code in
        compiled = numba.njit(nogil=True)(_pool)
    return compiled


def _pool(planes: NDArray[Any], windows: NDArray[np.int64], values: NDArray[Any], places: NDArray[np.int32]) -> None:
    """Pool every plane ``(P, h, w)`` with every window into ``(n, P, h, w)`` values and places ``row * w + column``."""
    height, width = planes.shape[1], planes.shape[2]
    reach = windows[-1] // 2
    a = np.empty((height + 2 * reach, width + 2 * reach), planes.dtype)
    b = np.empty_like(a)
    place_a = np.zeros(a.shape, np.int32)
    place_b = np.zeros(a.shape, np.int32)
    for plane in range(len(planes)):
        a[:] = -np.inf
        for row in range(height):
            for column in range(width):
                a[reach + row, reach + column] = planes[plane, row, column]
                place_a[reach + row, reach + column] = row * width + column
        rows, columns, last = a.shape[0], a.shape[1], 1
        for index in range(len(windows)):
            grow = windows[index] - last  # a window that is larger by `grow` sees `grow + 1` of the last one
            last = windows[index]
            columns -= grow
            for row in range(rows):
                from_value, from_place, to_value, to_place = a[row], place_a[row], b[row], place_b[row]
                for column in range(columns):
                    to_value[column] = from_value[column]
                    to_place[column] = from_place[column]
                for shift in range(1, grow + 1):
                    for column in range(columns):
                        value = from_value[column + shift]
                        takes = (value > to_value[column]) | (value != value)  # not a number stays, as in torch
                        to_value[column] = value if takes else to_value[column]
                        to_place[column] = from_place[column + shift] if takes else to_place[column]
            rows -= grow
            for row in range(rows):
                to_value, to_place = a[row], place_a[row]
                for column in range(columns):
                    to_value[column] = b[row, column]
                    to_place[column] = place_b[row, column]
                for shift in range(1, grow + 1):
                    from_value, from_place = b[row + shift], place_b[row + shift]
                    for column in range(columns):
                        value = from_value[column]
                        takes = (value > to_value[column]) | (value != value)
                        to_value[column] = value if takes else to_value[column]
                        to_place[column] = from_place[column] if takes else to_place[column]
            rest = reach - windows[index] // 2
            values[index, plane] = a[rest : rest + height, rest : rest + width]
            places[index, plane] = place_a[rest : rest + height, rest : rest + width]
        place_a[:] = 0
