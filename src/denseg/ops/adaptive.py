# SPDX-License-Identifier: Apache-2.0
"""Pooling into a fixed grid of bins, whatever the map's size, in a form that exporters know at dynamic sizes.

Bin i of n covers positions ``floor(i * size / n)`` to ``ceil((i + 1) * size / n)``, as torch's adaptive pooling does.
Averages are two products with bin matrices; torch's own operator does not survive ONNX export at dynamic sizes.

Shape letters: B batch, C channels, h and w height and width, n bins per axis.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from denseg.errors import ShapeError, UsageError

__all__ = ["adaptive_pool"]


def adaptive_pool(x: Tensor, bins: int, *, pool: str = "avg") -> Tensor:
    """Pool a map into ``bins`` x ``bins``.

    Args:
        x: ``(B, C, h, w)``, floating point.
        bins: Bins per axis, n; more than positions is legal, bins then share them.
        pool: ``avg`` or ``max``.

    Returns:
        ``(B, C, n, n)``.

    Raises:
        ShapeError: ``x`` is not 4-D or not floating point.
        UsageError: ``bins`` is less than 1, or ``pool`` is unknown.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise ShapeError(f"pooling takes floating-point maps (B, C, h, w), got {x.dtype} of shape {tuple(x.shape)}")
    if bins < 1:
        raise UsageError(f"bins must be at least 1, got {bins}")
    if pool not in {"avg", "max"}:
        raise UsageError(f"pool is 'avg' or 'max', got {pool!r}")
    if bins == 1:
        return x.mean(dim=(2, 3), keepdim=True) if pool == "avg" else x.amax(dim=(2, 3), keepdim=True)
    if not torch.compiler.is_exporting():
        return F.adaptive_avg_pool2d(x, bins) if pool == "avg" else F.adaptive_max_pool2d(x, bins)
    rows, columns = _members(x.shape[2], bins, x), _members(x.shape[3], bins, x)  # (n, h), (n, w)
    if pool == "avg":
        rows, columns = (part.to(x.dtype) / part.sum(dim=1, keepdim=True) for part in (rows, columns))
        return rows @ (x @ columns.T)  # (B, C, n, n)
    strips = torch.stack([x.masked_fill(~part, -torch.inf).amax(dim=3) for part in columns.unbind()], dim=3)
    return torch.stack([strips.masked_fill(~part[:, None], -torch.inf).amax(dim=2) for part in rows.unbind()], dim=2)


def _members(size: int, bins: int, x: Tensor) -> Tensor:
    """Say which positions each bin covers, ``(n, size)`` bool."""
    place, index = torch.arange(size, device=x.device), torch.arange(bins, device=x.device)[:, None]
    start = index * size // bins
    stop = ((index + 1) * size + bins - 1) // bins
    return (place >= start) & (place < stop)
