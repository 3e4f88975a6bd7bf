# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolution with holes, each case by the exact form that is fastest on a CPU.

torch's CPU kernels for dilated depthwise convolution fall back to plain loops for channels-last maps: forward beyond a
dilation of about 6, backward always. Two other forms give the same sums, 5 to 25 times faster there:

* by phases: the map is cut into ``dilation ** 2`` maps of every ``dilation``-th position, convolved without holes;
* by taps (backward, where phases have a few positions each): each kernel tap adds a shifted, scaled copy of the map,
  and taps that never meet the map cost nothing.

Shape letters: B batch, C channels, h and w feature height and width, k kernel side, d dilation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["depthwise_atrous_conv2d"]

_DIRECT_UP_TO = 6  # dilation that torch's forward kernel still takes fast; measured, as is the next
_TAPS_UP_TO = 2  # positions of a phase per side: on smaller maps the phases' own kernels are slow


def depthwise_atrous_conv2d(x: Tensor, weight: Tensor, dilation: int, bias: Tensor | None = None) -> Tensor:
    """Convolve each channel with its own kernel with holes; stride 1, zero padding that keeps the size.

    Equal to ``torch.nn.functional.conv2d`` with ``groups = C``, which it calls wherever that is fast: on other
    devices, for maps that are not channels-last, and in exported or compiled graphs.

    Args:
        x: ``(B, C, h, w)``, floating point.
        weight: ``(C, 1, k, k)`` with odd k.
        dilation: Distance between the kernel's taps, d.
        bias: ``(C,)``, or ``None``.

    Returns:
        ``(B, C, h, w)``.
    """
    if _is_direct(x, dilation):
        return _direct(x, weight, dilation, bias)
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight = x.to(dtype), weight.to(dtype)
    bias = bias if bias is None else bias.to(x.dtype)
    if not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)):
        return _convolve(x, weight, dilation, bias)
    out: Tensor = _DepthwiseAtrous.apply(x, weight, dilation)
    return out if bias is None else out + bias[:, None, None]


def _is_direct(x: Tensor, dilation: int) -> bool:
    if dilation == 1 or x.device.type != "cpu" or torch.compiler.is_compiling():
        return True
    return not x.is_contiguous(memory_format=torch.channels_last) or x.is_contiguous()


def _direct(x: Tensor, weight: Tensor, dilation: int, bias: Tensor | None = None) -> Tensor:
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(x, weight, bias, 1, padding, dilation, weight.shape[0])


def _convolve(x: Tensor, weight: Tensor, dilation: int, bias: Tensor | None) -> Tensor:
    if dilation <= _DIRECT_UP_TO:
        return _direct(x, weight, dilation, bias)
    return _join_phases(_direct(_split_phases(x, dilation), weight, 1, bias), dilation, x)


class _DepthwiseAtrous(torch.autograd.Function):
    """Forward and backward, each in its fastest form."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        return _convolve(x, weight, dilation, None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        dilation: int = ctx.dilation
        grad = grad.contiguous(memory_format=torch.channels_last)
        if -(-max(x.shape[-2:]) // dilation) <= _TAPS_UP_TO:
            return *_differentiate_by_taps(grad, x, weight, dilation), None
        half = weight.shape[-1] // 2
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            _split_phases(grad, dilation),
            _split_phases(x, dilation),
            weight,
            None,
            [1, 1],
            [half, half],
            [1, 1],
            False,
            [0, 0],
            weight.shape[0],
            [True, True, False],
        )
        return _join_phases(grad_x, dilation, x), grad_weight, None


def _split_phases(x: Tensor, dilation: int) -> Tensor:
    """``(B, C, h, w)`` to ``(B d d, C, ceil(h / d), ceil(w / d))``: each phase holds every d-th row and column."""
    batch, channels, height, width = x.shape
    rows, columns = -(-height // dilation), -(-width // dilation)
    x = F.pad(x, (0, columns * dilation - width, 0, rows * dilation - height)).permute(0, 2, 3, 1)  # (B, h', w', C)
    x = x.reshape(batch, rows, dilation, columns, dilation, channels).permute(0, 2, 4, 1, 3, 5)
    x = x.reshape(batch * dilation**2, rows, columns, channels)  # copies: (B, d, d, h', w', C) -> (B d d, h', w', C)
    return x.permute(0, 3, 1, 2)


def _join_phases(phases: Tensor, dilation: int, like: Tensor) -> Tensor:
    """Undo ``_split_phases`` for a map of the size of ``like``."""
    batch, channels, height, width = like.shape
    rows, columns = phases.shape[-2:]
    x = phases.permute(0, 2, 3, 1).reshape(batch, dilation, dilation, rows, columns, channels)
    x = x.permute(0, 3, 1, 4, 2, 5).reshape(batch, rows * dilation, columns * dilation, channels)
    return x[:, :height, :width].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _taps(height: int, width: int, kernel: int, dilation: int) -> Iterator[tuple[int, int, Any, Any]]:
    """Each tap that meets the map: its place in the kernel, the output window it adds to, the input window it reads."""
    half = kernel // 2
    for row in range(kernel):
        for column in range(kernel):
            down, right = (row - half) * dilation, (column - half) * dilation
            if abs(down) < height and abs(right) < width:
                out = (..., slice(max(-down, 0), height - max(down, 0)), slice(max(-right, 0), width - max(right, 0)))
                read = (..., slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0)))
                yield row, column, out, read


def _differentiate_by_taps(grad: Tensor, x: Tensor, weight: Tensor, dilation: int) -> tuple[Tensor, Tensor]:
    half = weight.shape[-1] // 2
    height, width = x.shape[-2:]
    grad_x = grad * weight[:, 0, half, half, None, None]  # (B, C, h, w)
    grad_weight = torch.zeros_like(weight)
    for row, column, written, read in _taps(height, width, weight.shape[-1], dilation):
        if (row, column) != (half, half):
            grad_x[read].addcmul_(grad[written], weight[:, 0, row, column, None, None])
        grad_weight[:, 0, row, column] = (grad[written] * x[read]).sum(dim=(0, 2, 3))  # (C,)
    return grad_x, grad_weight
