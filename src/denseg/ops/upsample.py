# SPDX-License-Identifier: Apache-2.0
"""The convolution that follows nearest-neighbour growth and concatenation, without growing or concatenating.

A 3x3 convolution of a map whose every value was repeated 2x2 times is a transposed 4x4 convolution of stride 2 of the
map itself: 16 multiply-adds per value in the place of 36, and no large map in between. The kernel's other channels
act on the skip alone.

Shape letters: B batch, C grown channels, S skip channels, O output channels, h and w height and width before growth.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["conv_on_upsampled"]

_TRANSPOSED_FROM = 1024  # positions before growth; on smaller maps torch's transposed convolution is slower, measured


def conv_on_upsampled(
    x: Tensor, skip: Tensor | None, weight: Tensor, size: tuple[int, int], bias: Tensor | None = None
) -> Tensor:
    """Grow a map to a size by nearest neighbours, concatenate the skip, convolve 3x3 with zero padding.

    Args:
        x: ``(B, C, h, w)``, floating point.
        skip: ``(B, S, height, width)``, or ``None``.
        weight: ``(O, C + S, 3, 3)``; the first C channels act on ``x``.
        size: ``(height, width)`` of the output; those of ``skip``.
        bias: ``(O,)``, or ``None``.

    Returns:
        ``(B, O, height, width)``.
    """
    if _is_transposed_faster(x, size):
        grown = F.conv_transpose2d(
            x, _grown_kernel(weight[:, : x.shape[1]]), bias, stride=2, padding=1
        )  # (B, O, 2h, 2w)
        if skip is None:
            return grown
        kernel = weight[:, x.shape[1] :].contiguous(memory_format=torch.channels_last)
        return grown + F.conv2d(skip, kernel, padding=1)  # (B, O, 2h, 2w)
    x = F.interpolate(x, size=size, mode="nearest")  # (B, C, height, width)
    if skip is not None:
        x = torch.cat([x, skip], dim=1)  # (B, C + S, height, width)
    return F.conv2d(x, weight, bias, padding=1)


def _is_transposed_faster(x: Tensor, size: tuple[int, int]) -> bool:
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    height, width = x.shape[-2:]
    if tuple(size) != (2 * height, 2 * width) or height * width < _TRANSPOSED_FROM:
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _grown_kernel(weight: Tensor) -> Tensor:
    """``(O, C, 3, 3)`` to the ``(C, O, 4, 4)`` kernel: its correlation with 2x2 ones."""
    padded = F.pad(weight.flip(2, 3).transpose(0, 1), (1, 1, 1, 1))  # (C, O, 5, 5)
    rows = padded[:, :, :-1] + padded[:, :, 1:]  # (C, O, 4, 5)
    kernel = rows[..., :-1] + rows[..., 1:]  # (C, O, 4, 4)
    return kernel.contiguous(memory_format=torch.channels_last)
