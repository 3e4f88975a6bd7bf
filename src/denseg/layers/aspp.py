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
    Means of windows (``image_pooling_size``) grow with aligned corners, as in the released code.
Cost:
    Dominated by the full 3x3 convolutions on the backbone's channels; the separable form takes an eighth of that.

Shape letters: B batch, C channels in, D channels of each branch and of the output, h and w feature height and width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseg.errors import ShapeError, UsageError
from denseg.layers.conv import ConvBlock
from denseg.layers.separable_conv import spatial_conv
from denseg.ops.resize import resize

__all__ = ["ASPP"]


class ASPP(nn.Module):
    """Image-level pooling, a 1x1 convolution and one 3x3 convolution per dilation, concatenated and projected."""

    def __init__(  # noqa: PLR0913 - one option per line of the papers' tables
        self,
        in_channels: int,
        *,
        dilations: Sequence[int] = (12, 24, 36),
        out_channels: int = 256,
        conv: str = "full",
        groups: int = 4,
        norm_between: bool = True,
        image_pooling: bool = True,
        image_pooling_size: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        """Create the branches and the projection.

        Args:
            in_channels: Channels of the input, C.
            dilations: One 3x3 branch each; the papers take 6, 12, 18 at output stride 16 and twice that at 8.
            out_channels: Channels of each branch and of the output, D.
            conv: Form of the 3x3 branches: ``full`` as in DeepLab v3, ``separable`` as in v3+, or ``grouped``.
            groups: Groups of the grouped form.
            norm_between: Batch norm and ReLU inside the separable form, see ``SeparableConv``.
            image_pooling: Whether the mean of the whole map is a branch.
            image_pooling_size: Side of the window of that mean, in positions: the released code's
                ``image_pooling_crop_size``, which gives maps larger than those of training what training saw. The
                whole map if ``None``.
            dropout: Probability of dropping a value of the output in training.

        Raises:
            UsageError: A dilation or window is not positive, or ``dropout`` is not a probability below 1.
        """
        super().__init__()
        if any(dilation < 1 for dilation in dilations):
            raise UsageError(f"ASPP dilations must be at least 1, got {list(dilations)}")
        if not 0 <= dropout < 1:
            raise UsageError(f"dropout must be at least 0 and below 1, got {dropout}")
        if image_pooling_size is not None and image_pooling_size < 1:
            raise UsageError(f"image_pooling_size must be at least 1, got {image_pooling_size}")
        self.image_pooling_size = image_pooling_size
        self.pooling = ConvBlock(in_channels, out_channels, kernel_size=1) if image_pooling else None
        self.pointwise = ConvBlock(in_channels, out_channels, kernel_size=1)
        self.atrous = nn.ModuleList(
            spatial_conv(
                in_channels, out_channels, conv=conv, dilation=dilation, groups=groups, norm_between=norm_between
            )
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
            branches.insert(0, self._pool(self.pooling, features).expand_as(branches[0]))  # (B, D, h, w)
        context: Tensor = self.projection(torch.cat(branches, dim=1))  # (B, D, h, w)
        return F.dropout(context, self.dropout, self.training)

    def _pool(self, pooling: ConvBlock, features: Tensor) -> Tensor:
        """Average the map, or all windows of a size in it, and grow the result to the map's size."""
        if self.image_pooling_size is None:
            whole: Tensor = pooling(features.mean(dim=(2, 3), keepdim=True))  # (B, D, 1, 1)
            return whole
        size = (features.shape[-2], features.shape[-1])
        window = (min(self.image_pooling_size, size[0]), min(self.image_pooling_size, size[1]))
        pooled = pooling(F.avg_pool2d(features, window, stride=1))  # (B, D, h - window + 1, w - window + 1)
        return resize(pooled, size, align_corners=True)  # the first and last window stay at the map's ends
