# SPDX-License-Identifier: Apache-2.0
"""Channel attention: every channel gathers what unlike channels see.

Paper:
    J. Fu et al., "Dual Attention Network for Scene Segmentation", CVPR 2019. https://arxiv.org/abs/1809.02983 -
    channel attention module.
Reference code:
    https://github.com/junfu1115/DANet (not copied).
Departures from the paper:
    Scores are subtracted from their row's largest before the softmax, as in the authors' code: a channel attends most
    to those that it is least like.
Cost:
    Linear in the number of positions; one C x C matrix.

Shape letters: B batch, C channels, h and w feature height and width, N = h * w positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from denseg.errors import ShapeError

__all__ = ["ChannelAttention"]


class ChannelAttention(nn.Module):
    """Self-attention over channels with a learned residual weight.

    Attributes:
        gamma: Residual weight, ``(1,)``; starts at 0, so that the layer starts as the identity.
    """

    def __init__(self, in_channels: int) -> None:
        """Create the residual weight.

        Args:
            in_channels: Channels of the input and of the output, C; the layer has no weights that depend on it.
        """
        super().__init__()
        self.in_channels = in_channels
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, features: Tensor) -> Tensor:
        """Add to each channel the weighted mean over all channels.

        Args:
            features: ``(B, C, h, w)``, floating point.

        Returns:
            ``(B, C, h, w)``.

        Raises:
            ShapeError: ``features`` is not ``(B, C, h, w)``.
        """
        if features.ndim != 4 or features.shape[1] != self.in_channels:
            raise ShapeError(
                f"ChannelAttention takes features of shape (B, {self.in_channels}, h, w), got {tuple(features.shape)}"
            )
        rows = features.flatten(2)  # (B, C, N)
        likeness = rows @ rows.transpose(1, 2)  # (B, C, C)
        unlikeness = likeness.amax(dim=-1, keepdim=True) - likeness
        context = torch.softmax(unlikeness, dim=-1).to(rows.dtype) @ rows  # (B, C, N)
        residual: Tensor = self.gamma * context.view_as(features)  # (B, C, N) -> (B, C, h, w)
        return features + residual
