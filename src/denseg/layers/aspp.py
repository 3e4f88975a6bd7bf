# SPDX-License-Identifier: Apache-2.0
"""Atrous spatial pyramid pooling: parallel convolutions at several rates, and the mean of the whole map.

Paper:
    L.-C. Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017.
    https://arxiv.org/abs/1706.05587 - Section 3.3, Figure 5; separable form: https://arxiv.org/abs/1802.02611.
Reference code:
    https://github.com/tensorflow/models/tree/master/research/deeplab (not copied).
Departures from the paper:
    Batch norm keeps torch's momentum of 0.1; the released code's 0.0003 needs its 30,000 steps.
    In training, the pooled branch of a batch of one uses the norm's running statistics.
Cost:
    Dominated by the full 3x3 convolutions on the backbone's channels; ``separable`` takes an eighth of that.

Shape letters: B batch, C channels in, D channels of each branch and of the output, h and w feature height and width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseg.errors import ShapeError, UsageError
from denseg.layers.conv import ConvBlock
from denseg.layers.separable_conv import SeparableConv

__all__ = ["ASPP"]


class ASPP(nn.Module):
    """Image-level pooling, a 1x1 convolution and one 3x3 convolution per dilation, concatenated and projected."""

    def __init__(
        self,
        in_channels: int,
        *,
        dilations: Sequence[int] = (12, 24, 36),
        out_channels: int = 256,
        separable: bool = False,
        image_pooling: bool = True,
        dropout: float = 0.1,
    ) -> None:
        """Create the branches and the projection.

        Args:
            in_channels: Channels of the input, C.
            dilations: One 3x3 branch each; the papers take 6, 12, 18 at output stride 16 and twice that at 8.
            out_channels: Channels of each branch and of the output, D.
            separable: Depthwise separable 3x3 branches, as in DeepLab v3+.
            image_pooling: Whether the mean of the whole map is a branch.
            dropout: Probability of dropping a value of the output in training.

        Raises:
            UsageError: A dilation is not positive, or ``dropout`` is not a probability below 1.
        """
        super().__init__()
        if any(dilation < 1 for dilation in dilations):
            raise UsageError(f"ASPP dilations must be at least 1, got {list(dilations)}")
        if not 0 <= dropout < 1:
            raise UsageError(f"dropout must be at least 0 and below 1, got {dropout}")
        self.pooling = ConvBlock(in_channels, out_channels, kernel_size=1) if image_pooling else None
        self.pointwise = ConvBlock(in_channels, out_channels, kernel_size=1)
        self.atrous = nn.ModuleList(
            SeparableConv(in_channels, out_channels=out_channels, dilation=dilation)
            if separable
            else ConvBlock(in_channels, out_channels, dilation=dilation)
            for dilation in dilations
        )
        branches = 1 + len(dilations) + int(image_pooling)
        self.projection = ConvBlock(branches * out_channels, out_channels, kernel_size=1)
        self.dropout = dropout

    def forward(self, features: Tensor) -> Tensor:
        """Gather context at every rate.

        Args:
            features: ``(B, C, h, w)``, floating point.

        Returns:
            ``(B, D, h, w)``.

        Raises:
            ShapeError: ``features`` is not 4-D.
        """
        if features.ndim != 4:
            raise ShapeError(f"ASPP takes features of shape (B, C, h, w), got {tuple(features.shape)}")
        branches = [self.pointwise(features), *(branch(features) for branch in self.atrous)]
        if self.pooling is not None:
            pooled = self.pooling(features.mean(dim=(2, 3), keepdim=True))  # (B, D, 1, 1)
            branches.insert(0, pooled.expand_as(branches[0]))  # (B, D, h, w): bilinear growth of one value
        context: Tensor = self.projection(torch.cat(branches, dim=1))  # (B, D, h, w)
        return F.dropout(context, self.dropout, self.training)
