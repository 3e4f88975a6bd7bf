# SPDX-License-Identifier: Apache-2.0
"""Position attention: every position gathers context from every other.

Paper:
    J. Fu et al., "Dual Attention Network for Scene Segmentation", CVPR 2019. https://arxiv.org/abs/1809.02983 -
    position attention module.
Reference code:
    https://github.com/junfu1115/DANet (not copied).
Departures from the paper:
    Query and key have C // 8 channels, as in the authors' code.
Cost:
    Time grows with (h * w) ** 2; memory does not, since the weights are computed in chunks of rows.

Shape letters: B batch, C channels, D = C // reduction, h and w feature height and width, N = h * w positions.
"""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor, nn

from denseg.errors import ShapeError, UsageError
from denseg.layers.conv import init_conv
from denseg.ops.attention import dense_attention

__all__ = ["NO_GRADIENT", "PositionAttention"]

NO_GRADIENT = MappingProxyType({"key.bias": "adds the same to all scores of a query, which softmax ignores"})


class PositionAttention(nn.Module):
    """Self-attention over positions with a learned residual weight.

    Attributes:
        gamma: Residual weight, ``(1,)``; starts at 0, so that the layer starts as the identity.
    """

    def __init__(self, in_channels: int, *, reduction: int = 8) -> None:
        """Create the three 1x1 projections.

        Args:
            in_channels: Channels of the input and of the output, C.
            reduction: Divides C to give the width D of query and key.

        Raises:
            UsageError: ``in_channels`` is less than ``reduction``.
        """
        super().__init__()
        if in_channels < reduction:
            raise UsageError(f"in_channels must be at least reduction ({reduction}), got {in_channels}")
        self.query = nn.Conv2d(in_channels, in_channels // reduction, 1)
        self.key = nn.Conv2d(in_channels, in_channels // reduction, 1)
        self.value = nn.Conv2d(in_channels, in_channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))
        for conv in (self.query, self.key, self.value):
            init_conv(conv)

    def forward(self, features: Tensor) -> Tensor:
        """Add to each position the weighted mean over all positions.

        Args:
            features: ``(B, C, h, w)``, floating point.

        Returns:
            ``(B, C, h, w)``.

        Raises:
            ShapeError: ``features`` is not 4-D.
        """
        if features.ndim != 4:
            raise ShapeError(f"PositionAttention takes features of shape (B, C, h, w), got {tuple(features.shape)}")
        query = self.query(features).flatten(2).transpose(1, 2)  # (B, N, D)
        key = self.key(features).flatten(2).transpose(1, 2)  # (B, N, D)
        value = self.value(features).flatten(2).transpose(1, 2)  # (B, N, C)
        context = dense_attention(query, key, value).transpose(1, 2)  # (B, C, N)
        residual: Tensor = self.gamma * context.reshape(features.shape)  # (B, C, N) -> (B, C, h, w)
        return features + residual
