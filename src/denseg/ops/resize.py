# SPDX-License-Identifier: Apache-2.0
"""Interpolation, the only place where ``align_corners`` is decided.

Shape letters: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

from denseg.errors import ShapeError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["resize"]

_MODES = ("bilinear", "bicubic", "nearest")


def resize(x: Tensor, size: tuple[int, int], *, mode: str = "bilinear", align_corners: bool = False) -> Tensor:
    """Bring maps to a size; the same tensor comes back where they have it.

    Args:
        x: ``(B, C, h, w)``, floating point.
        size: ``(height, width)`` in pixels.
        mode: ``bilinear``, ``bicubic`` or ``nearest``.
        align_corners: Whether the corner pixels' centres stay at the corners. False everywhere but where a paper's
            weights need it; without meaning for ``nearest``.

    Returns:
        ``(B, C, H, W)``.

    Raises:
        ShapeError: ``x`` is not 4-D.
        UsageError: The mode is unknown.
    """
    if x.ndim != 4:
        raise ShapeError(f"resize takes maps of shape (B, C, h, w), got {tuple(x.shape)}; add the missing axes")
    if mode not in _MODES:
        raise UsageError(f"resize knows the modes {', '.join(_MODES)}, got {mode!r}")
    if x.shape[-2] == size[0] and x.shape[-1] == size[1]:
        return x
    if mode == "nearest":
        return F.interpolate(x, size=size, mode="nearest")
    return F.interpolate(x, size=size, mode=mode, align_corners=align_corners)
