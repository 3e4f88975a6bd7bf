# SPDX-License-Identifier: Apache-2.0
"""Maximum pooling that remembers where each maximum stood, and unpooling that puts values back there.

Made of rearrangements alone, so that it exports and that a switch costs no position in the whole map.

Shape letters: B batch, C channels, h and w height and width after pooling.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from denseg.errors import ShapeError

__all__ = ["max_pool_with_switches", "unpool"]


def max_pool_with_switches(x: Tensor) -> tuple[Tensor, Tensor]:
    """Take the maximum of every 2x2 positions.

    Args:
        x: ``(B, C, 2h, 2w)``, floating point.

    Returns:
        The maxima ``(B, C, h, w)``, and which of the four it was, row by row: ``(B, C, h, w)`` in 0..3, the first among
        equal ones.

    Raises:
        ShapeError: A side is odd.
    """
    if x.ndim != 4 or x.shape[-2] % 2 or x.shape[-1] % 2:
        raise ShapeError(f"pooling with switches takes maps (B, C, h, w) of even sides, got {tuple(x.shape)}")
    four = torch.unflatten(F.pixel_unshuffle(x, 2), 1, (x.shape[1], 4))  # (B, C, 4, h, w)
    largest, switches = four.max(dim=2)
    return largest, switches


def unpool(x: Tensor, switches: Tensor) -> Tensor:
    """Put each value where the maximum stood, among zeros.

    Args:
        x: ``(B, C, h, w)``, floating point.
        switches: What ``max_pool_with_switches`` gave, of the same shape.

    Returns:
        ``(B, C, 2h, 2w)``.

    Raises:
        ShapeError: The shapes differ.
    """
    if x.shape[-3:] != switches.shape[-3:]:
        raise ShapeError(f"unpooling needs one switch per value, got {tuple(x.shape)} and {tuple(switches.shape)}")
    place = torch.arange(4, device=x.device)[:, None, None]  # (4, 1, 1)
    four = torch.where(switches[:, :, None] == place, x[:, :, None], x.new_zeros(()))  # (B, C, 4, h, w)
    return F.pixel_shuffle(four.flatten(1, 2), 2)  # (B, C, 2h, 2w)
