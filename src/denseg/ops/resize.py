# SPDX-License-Identifier: Apache-2.0
"""Interpolation, the only place where ``align_corners`` is decided.

Shape letters: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from denseg.errors import ShapeError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    if _has_size(x, size):
        return x
    if mode != "bicubic" and torch.compiler.is_exporting() and _is_known(x.shape[-2:]) and not _is_known(size):
        return _resize_by_matrices(x, size, mode, align_corners)
    if mode == "nearest":
        return F.interpolate(x, size=size, mode="nearest")
    return F.interpolate(x, size=size, mode=mode, align_corners=align_corners)


def _has_size(x: Tensor, size: tuple[int, int]) -> bool:
    """Whether maps have a size already; where sizes are symbols, only what holds for all of them counts."""
    same = tuple(here == wanted for here, wanted in zip(x.shape[-2:], size, strict=True))
    if torch.compiler.is_exporting():
        from torch.fx.experimental.symbolic_shapes import (
            statically_known_true,  # sympy behind it takes a second to import
        )

        same = tuple(statically_known_true(equal) for equal in same)
    return all(same)


def _is_known(size: Sequence[int]) -> bool:
    return all(isinstance(side, int) for side in size)


def _resize_by_matrices(x: Tensor, size: tuple[int, int], mode: str, align_corners: bool) -> Tensor:
    """Bring a few positions to a size that is a symbol, where the exporter would bind it to differ from theirs."""
    rows, columns = (
        _weights(x, here, wanted, mode, align_corners) for here, wanted in zip(x.shape[-2:], size, strict=True)
    )
    return rows @ x @ columns.T  # (H, h) @ (B, C, h, w) @ (w, W)


def _weights(x: Tensor, here: int, wanted: int, mode: str, align_corners: bool) -> Tensor:
    """Give what each of ``here`` positions adds to each of ``wanted``: hats around the place that is asked for."""
    place = torch.arange(wanted, device=x.device).to(x.dtype)
    source = torch.arange(here, device=x.device)
    if mode == "nearest":
        return ((place * here / wanted).floor()[:, None] == source).to(x.dtype)
    place = place * (here - 1) / max(wanted - 1, 1) if align_corners else (place + 0.5) * here / wanted - 0.5
    return F.relu(1 - (place.clamp(0, here - 1)[:, None] - source).abs())  # (wanted, here)
