# SPDX-License-Identifier: Apache-2.0
"""Pyramid pooling: the map beside its averages over 1, 4, 9 and 36 regions.

Paper:
    H. Zhao, J. Shi, X. Qi, X. Wang, J. Jia, "Pyramid Scene Parsing Network", CVPR 2017.
    https://arxiv.org/abs/1612.01105 - Section 3.2, Figure 3.
Reference code:
    https://github.com/hszhao/semseg (PyTorch), https://github.com/hszhao/PSPNet (Caffe; neither copied).
Departures from the paper:
    Region maps grow with ``align_corners=False`` unless asked; both released codes take True.
    In training, the branch of one region and a batch of one uses the norm's running statistics.
Cost:
    Pooling is cheap; what follows works on twice the channels.

Shape letters: B batch, C channels, N branches, h and w feature height and width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from denseg.errors import ShapeError, UsageError
from denseg.layers.conv import ConvBlock
from denseg.ops.adaptive import adaptive_pool
from denseg.ops.resize import resize

__all__ = ["PyramidPooling"]


class PyramidPooling(nn.Module):
    """Averages over grids of regions, each reduced by a 1x1 convolution, grown back and concatenated with the input."""

    def __init__(
        self,
        in_channels: int,
        *,
        bins: Sequence[int] = (1, 2, 3, 6),
        out_channels: int | None = None,
        align_corners: bool = False,
        context_first: bool = False,
        norm_single: bool = True,
    ) -> None:
        """Create one 1x1 convolution per grid.

        Args:
            in_channels: Channels of the input, C.
            bins: Regions per axis of each grid; N of them.
            out_channels: Channels of each branch; C // N if ``None``.
            align_corners: How region maps grow back; True for the released weights.
            context_first: Concatenate the branches before the input, as segmentation_models_pytorch does.
            norm_single: Whether the branch of one region has a batch norm; segmentation_models_pytorch's has a bias.

        Raises:
            UsageError: There is no grid, or one has no region.
        """
        super().__init__()
        if not bins or any(count < 1 for count in bins):
            raise UsageError(f"pyramid pooling needs bins of at least 1, got {list(bins)}")
        self.bins = tuple(bins)
        self.align_corners = align_corners
        width = max(1, in_channels // len(self.bins)) if out_channels is None else out_channels
        self.context_first = context_first
        self.branches = nn.ModuleList(
            ConvBlock(in_channels, width, kernel_size=1)
            if norm_single or count > 1
            else nn.Sequential(nn.Conv2d(in_channels, width, 1), nn.ReLU(inplace=True))
            for count in self.bins
        )

    def forward(self, features: Tensor) -> Tensor:
        """Put the context of regions beside each position.

        Args:
            features: ``(B, C, h, w)``, floating point.

        Returns:
            ``(B, C + N * out_channels, h, w)``: the input, then the branches in the order of ``bins``; the input last
            with ``context_first``.

        Raises:
            ShapeError: ``features`` is not 4-D.
        """
        if features.ndim != 4:
            raise ShapeError(f"PyramidPooling takes features of shape (B, C, h, w), got {tuple(features.shape)}")
        size = (features.shape[-2], features.shape[-1])
        context = []
        for count, branch in zip(self.bins, self.branches, strict=True):
            pooled = branch(adaptive_pool(features, count))  # (B, C // N, n, n)
            context.append(resize(pooled, size, align_corners=self.align_corners))
        return torch.cat([*context, features] if self.context_first else [features, *context], dim=1)
