# SPDX-License-Identifier: Apache-2.0
"""Spatial pyramid pooling: a vector of fixed length from a map of any size.

Paper:
    K. He, X. Zhang, S. Ren, J. Sun, "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition",
    ECCV 2014 and TPAMI 2015. https://arxiv.org/abs/1406.4729 - Section 2.2, Figure 3.
Reference code:
    https://github.com/ShaoqingRen/SPP_net (not copied).
Departures from the paper:
    The paper's window ceil(a / n) and stride floor(a / n) do not give n bins at every size; here bin i runs from
    floor(i a / n) to ceil((i + 1) a / n), which is the same where n divides a.
    The dense form is not the paper's: it lays each bin back over the positions that it came from.
Cost:
    One pass over the map per level.

Shape letters: B batch, C channels, M sum of squared levels, L levels, h and w feature height and width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from denseg.errors import ShapeError, UsageError
from denseg.ops.adaptive import adaptive_pool
from denseg.ops.resize import resize

__all__ = ["SpatialPyramidPooling"]


class SpatialPyramidPooling(nn.Module):
    """Maxima over grids of bins: as a context layer (``forward``) or as the paper's vector (``vector``)."""

    def __init__(self, in_channels: int, *, levels: Sequence[int] = (6, 3, 2, 1), pool: str = "max") -> None:
        """Keep the levels; the layer has no weights.

        Args:
            in_channels: Channels of the input, C.
            levels: Bins per axis of each level; 6, 3, 2, 1 give 50 bins.
            pool: ``max`` as in the paper, or ``avg``.

        Raises:
            UsageError: There is no level, one has no bin, or ``pool`` is unknown.
        """
        super().__init__()
        if not levels or any(level < 1 for level in levels):
            raise UsageError(f"spatial pyramid pooling needs levels of at least 1, got {list(levels)}")
        if pool not in {"avg", "max"}:
            raise UsageError(f"pool is 'avg' or 'max', got {pool!r}")
        self.in_channels = in_channels
        self.levels = tuple(levels)
        self.pool = pool
        self.bins = sum(level**2 for level in self.levels)

    def forward(self, features: Tensor) -> Tensor:
        """Put the maxima of the bins that a position lies in beside it.

        Args:
            features: ``(B, C, h, w)``, floating point.

        Returns:
            ``(B, C + L * C, h, w)``: the input, then the levels in their order, grown by nearest neighbour.
        """
        self._check(features)
        size = (features.shape[-2], features.shape[-1])
        pooled = [adaptive_pool(features, level, pool=self.pool) for level in self.levels]
        return torch.cat([features, *(resize(part, size, mode="nearest") for part in pooled)], dim=1)

    def vector(self, features: Tensor) -> Tensor:
        """Pool to the paper's vector of fixed length.

        Args:
            features: ``(B, C, h, w)``, floating point.

        Returns:
            ``(B, C * M)``: for each level all channels, each with its bins row by row.
        """
        self._check(features)
        return torch.cat([adaptive_pool(features, level, pool=self.pool).flatten(1) for level in self.levels], dim=1)

    def _check(self, features: Tensor) -> None:
        if features.ndim != 4 or features.shape[1] != self.in_channels:
            raise ShapeError(
                f"SpatialPyramidPooling takes features of shape (B, {self.in_channels}, h, w), "
                f"got {tuple(features.shape)}"
            )
