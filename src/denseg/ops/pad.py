# SPDX-License-Identifier: Apache-2.0
"""Padding and cropping.

Shape letters: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from denseg.errors import ShapeError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["center_crop", "pad_at_least", "pad_to_multiple", "reflect_pad"]


def pad_at_least(x: Tensor, minimum: int) -> Tensor:
    """Pad maps with zeros at bottom and right up to a smallest size; larger maps come back as they are.

    Args:
        x: ``(..., H, W)``.
        minimum: Smallest height and width, in pixels.

    Returns:
        ``(..., max(H, minimum), max(W, minimum))``.
    """
    height, width = x.shape[-2:]
    if height >= minimum and width >= minimum:
        return x
    return F.pad(x, (0, max(minimum - width, 0), 0, max(minimum - height, 0)))


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad maps with zeros at bottom and right to the next multiple of a stride.

    Args:
        x: ``(..., H, W)``.
        multiple: The stride, in pixels.

    Returns:
        ``(..., H', W')`` with both sizes multiples of ``multiple``.
    """
    height, width = x.shape[-2:]
    if height % multiple == 0 and width % multiple == 0:
        return x
    return F.pad(x, (0, -width % multiple, 0, -height % multiple))


def reflect_pad(x: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """Pad maps by mirroring, the edge pixel not repeated, by any amount: mirrors repeat where the map is small.

    Args:
        x: ``(..., H, W)``, any dtype; a side of one pixel is repeated.
        padding: ``(left, right, top, bottom)`` in pixels, none negative.

    Returns:
        ``(..., top + H + bottom, left + W + right)``.

    Raises:
        ShapeError: A padding is negative, or the map is empty.
    """
    height, width = x.shape[-2:]
    left, right, top, bottom = padding
    if min(padding) < 0 or height < 1 or width < 1:
        raise ShapeError(
            f"reflect_pad takes a map of at least 1x1 and padding >= 0, got {height}x{width} and {padding}"
        )
    rows = _mirror(height, top, bottom, x.device)
    columns = _mirror(width, left, right, x.device)
    return x.index_select(-2, rows).index_select(-1, columns)


def center_crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut the middle out of maps; of an odd surplus, the larger half is cut at bottom and right.

    Args:
        x: ``(..., H, W)``.
        size: ``(height, width)`` to keep, in pixels.

    Returns:
        ``(..., height, width)``, a view.

    Raises:
        ShapeError: The map is smaller than ``size``.
    """
    height, width = size
    top, left = x.shape[-2] - height, x.shape[-1] - width
    if top < 0 or left < 0:
        raise ShapeError(f"cannot cut {height}x{width} out of {x.shape[-2]}x{x.shape[-1]}: the map is smaller")
    top, left = top // 2, left // 2
    return x[..., top : top + height, left : left + width]


def _mirror(length: int, before: int, after: int, device: torch.device) -> Tensor:
    """Source index of each padded position: a triangle wave of period ``2 * (length - 1)``."""
    position = torch.arange(-before, length + after, device=device)
    if length == 1:
        return torch.zeros_like(position)
    period = 2 * (length - 1)
    position = position % period
    return torch.minimum(position, period - position)
