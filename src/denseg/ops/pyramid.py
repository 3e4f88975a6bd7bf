# SPDX-License-Identifier: Apache-2.0
"""Stride-1 pooling with many windows at once, each result of the input's size.

A window is centred on its position and clipped at the border of the map, so that a window larger than the map is
legal and sees the whole of it. Averages of all windows come from one integral image of the map less its mean (the
mean's removal keeps float32 exact enough, and a window costs four additions whatever its size); maxima of larger
windows are composed from those of smaller ones.

Shape letters: B batch, C channels, h and w height and width, R largest radius.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from denseg.errors import ShapeError, UsageError
from denseg.ops.max_pyramid import can_compile, compiled_max_pyramid

__all__ = ["average_pool_pyramid", "box_sum_pyramid", "check_windows", "max_pool_pyramid", "window_counts"]


def average_pool_pyramid(x: Tensor, windows: Sequence[int]) -> tuple[Tensor, ...]:
    """Average every clipped window around every position.

    Args:
        x: ``(B, C, h, w)``, floating point.
        windows: Odd sides of the windows, in positions, in any order.

    Returns:
        For each window ``(B, C, h, w)``: the mean of the positions that lie inside the map.

    Raises:
        ShapeError: ``x`` is not 4-D or not floating point.
        UsageError: A window is not odd and positive, or there is none.
    """
    check_windows(x, windows)
    mean = x.float().mean(dim=(2, 3), keepdim=True) if x.dtype != torch.float64 else x.mean(dim=(2, 3), keepdim=True)
    sums = box_sum_pyramid(x.to(mean.dtype) - mean, windows, precise=True)
    return tuple(
        torch.addcmul(mean, total, 1 / window_counts(x, window).to(mean.dtype)).to(x.dtype)
        for total, window in zip(sums, windows, strict=True)
    )


def box_sum_pyramid(x: Tensor, windows: Sequence[int], *, precise: bool = False) -> tuple[Tensor, ...]:
    """Sum every clipped window around every position.

    Args:
        x: ``(B, C, h, w)``, floating point; of about zero mean where float32 sums should be exact to 1e-5.
        windows: Odd sides of the windows, in positions, in any order.
        precise: Sum along rows once and along columns per window: about three times the work of the integral image,
            a tenth of its rounding error.

    Returns:
        For each window ``(B, C, h, w)``; float32 for half-precision input, else of the input's dtype.

    Raises:
        ShapeError: ``x`` is not 4-D or not floating point.
        UsageError: A window is not odd and positive, or there is none.
    """
    check_windows(x, windows)
    radii = tuple(_radii(x, window) for window in windows)
    wide = x if x.dtype == torch.float64 else x.float()
    if precise or torch.compiler.is_exporting() or torch.compiler.is_compiling():
        return _box_sums(wide, radii, precise=precise)
    sums: tuple[Tensor, ...] = _BoxSums.apply(wide, radii)
    return sums


def max_pool_pyramid(x: Tensor, windows: Sequence[int]) -> tuple[Tensor, ...]:
    """Take the maximum of every clipped window around every position.

    Args:
        x: ``(B, C, h, w)``, floating point.
        windows: Odd sides of the windows, in positions, in any order.

    Returns:
        For each window ``(B, C, h, w)``, bit-equal to ``max_pool2d`` with stride 1. The gradient goes to one largest
        position; among equal ones not always to the one that ``max_pool2d`` takes.

    Raises:
        ShapeError: ``x`` is not 4-D or not floating point.
        UsageError: A window is not odd and positive, or there is none.
    """
    check_windows(x, windows)
    if not torch.compiler.is_exporting():
        largest = 2 * max(x.shape[2:]) - 1  # sees the whole map from every position
        windows = [min(window, largest) for window in windows]
    ordered = sorted(set(windows))
    learns = torch.is_grad_enabled() and x.requires_grad
    traced = torch.compiler.is_exporting() or torch.compiler.is_compiling()
    if learns and not traced and can_compile(x):
        by_window = dict(zip(ordered, compiled_max_pyramid(x, ordered), strict=True))
    else:
        by_window = _compose_pooled(x, ordered) if learns or traced else _compose_shifted(x, ordered)
    return tuple(by_window[window] for window in windows)


def window_counts(x: Tensor, window: int) -> Tensor:
    """Count the positions of each clipped window that lie inside the map.

    Args:
        x: ``(B, C, h, w)``; only size and device are read.
        window: Odd side of the window.

    Returns:
        ``(h, w)`` int64, at least 1.
    """
    radius = window // 2
    sides = []
    for size in x.shape[2:]:
        place = torch.arange(size, device=x.device)
        sides.append((place + radius).clamp(max=size - 1) - (place - radius).clamp(min=0) + 1)
    return sides[0][:, None] * sides[1]  # (h, w)


def check_windows(x: Tensor, windows: Sequence[int]) -> None:
    """Refuse what cannot be pooled.

    Args:
        x: Should be ``(B, C, h, w)``, floating point.
        windows: Should be odd and positive.

    Raises:
        ShapeError: ``x`` is not 4-D or not floating point.
        UsageError: A window is not odd and positive, or there is none.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise ShapeError(f"pooling takes floating-point maps (B, C, h, w), got {x.dtype} of shape {tuple(x.shape)}")
    if not windows or any(window < 1 or window % 2 == 0 for window in windows):
        raise UsageError(f"windows must be odd and positive, so that they have a centre; got {list(windows)}")


def _radii(x: Tensor, window: int) -> tuple[int, int]:
    """Rows and columns that a window reaches from its centre; no further than the map is long."""
    radius = window // 2
    if torch.compiler.is_exporting():  # the size is a symbol there, and must not decide the graph
        return radius, radius
    return min(radius, x.shape[2] - 1), min(radius, x.shape[3] - 1)


def _box_sums(x: Tensor, radii: Sequence[tuple[int, int]], *, precise: bool) -> tuple[Tensor, ...]:
    """Sum the windows from an integral image, or, more exactly, from integrals along each axis."""
    height, width = x.shape[2:]
    tall, wide = max(row for row, _ in radii), max(column for _, column in radii)
    rows = F.pad(x, (wide + 1, wide, tall + 1, tall)).cumsum(dim=3)  # (B, C, h + 2R + 1, w + 2R + 1)
    integral = rows if precise else rows.cumsum(dim=2)
    sums = []
    for row, column in radii:
        top, bottom = tall - row, tall + row + 1
        left, right = wide - column, wide + column + 1
        strips = integral[..., right : right + width] - integral[..., left : left + width]  # (B, C, h + 2R + 1, w)
        if precise:
            strips = strips.cumsum(dim=2)
        sums.append(strips[:, :, bottom : bottom + height] - strips[:, :, top : top + height])  # (B, C, h, w)
    return tuple(sums)


class _BoxSums(torch.autograd.Function):
    """Box sums with one pass back for all windows: their gradients meet in one integral image."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, radii: tuple[tuple[int, int], ...]) -> tuple[Tensor, ...]:
        ctx.radii, ctx.size = radii, x.shape
        return _box_sums(x, radii, precise=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        height, width = ctx.size[2:]
        tall, wide = max(row for row, _ in ctx.radii), max(column for _, column in ctx.radii)
        # A window's sum reads four corners of the integral image; what comes back is added there.
        corners = grads[0].new_zeros(*ctx.size[:2], height + 2 * tall + 1, width + 2 * wide + 1)
        for (row, column), grad in zip(ctx.radii, grads, strict=True):
            top, bottom = tall - row, tall + row + 1
            left, right = wide - column, wide + column + 1
            corners[:, :, bottom : bottom + height, right : right + width] += grad
            corners[:, :, bottom : bottom + height, left : left + width] -= grad
            corners[:, :, top : top + height, right : right + width] -= grad
            corners[:, :, top : top + height, left : left + width] += grad
        # The sum from each place on is what follows it in the integral: summed from the far end.
        summed = corners.flip(2, 3).cumsum(dim=3).cumsum(dim=2)
        inner = summed[:, :, tall : tall + height, wide : wide + width]
        return inner.flip(2, 3), None


def _compose_pooled(x: Tensor, windows: Sequence[int]) -> dict[int, Tensor]:
    """Compose maxima from torch's pooling: its gradient is a cheap scatter, and exporters know it."""
    maxima: dict[int, Tensor] = {}
    largest, last = x, 1
    for window in windows:
        step = window - last + 1  # a window of `step` over maxima of `last` sees `window`
        largest = F.max_pool2d(largest, step, stride=1, padding=step // 2) if step > 1 else largest
        maxima[window] = largest
        last = window
    return maxima


def _compose_shifted(x: Tensor, windows: Sequence[int]) -> dict[int, Tensor]:
    """Compose maxima from shifted copies, axis by axis and doubling: fast, but its gradient would not be."""
    height, width = x.shape[2:]
    reach = windows[-1] // 2
    largest, last = F.pad(x, (reach, reach, reach, reach), value=-torch.inf), 1
    maxima: dict[int, Tensor] = {}
    for window in windows:
        for dim in (3, 2):
            largest = _slide(largest, window - last + 1, dim)
        rest = reach - window // 2
        maxima[window] = largest[:, :, rest : rest + height, rest : rest + width].contiguous()
        last = window
    return maxima


def _slide(x: Tensor, window: int, dim: int) -> Tensor:
    """Take maxima of ``window`` neighbours along one axis, which gets shorter by ``window - 1``."""
    seen = 1
    while seen < window:
        step = min(seen, window - seen)
        size = x.shape[dim] - step
        x = torch.maximum(x.narrow(dim, 0, size), x.narrow(dim, step, size))
        seen += step
    return x
