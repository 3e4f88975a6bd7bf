# SPDX-License-Identifier: Apache-2.0
"""VGG's fully connected layers as convolutions with holes: the head of DeepLab v1, a branch of v2's, ParseNet's too.

Shape letters: B batch, C channels in, D channels of the layers, K classes, h and w feature height and width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from denseg.errors import UsageError
from denseg.layers import init_conv

__all__ = ["LargeFOV"]


class LargeFOV(nn.Module):
    """``fc6`` (3x3, dilated) and ``fc7`` (1x1), each with ReLU and dropout."""

    def __init__(self, in_channels: int, *, channels: int = 1024, dilation: int = 12, dropout: float = 0.5) -> None:
        """Create both convolutions.

        Args:
            in_channels: Channels of the input, C.
            channels: Channels of both layers, D.
            dilation: Distance between the taps of ``fc6``.
            dropout: Probability of dropping a value in training.

        Raises:
            UsageError: The dilation is not positive, or ``dropout`` is not a probability below 1.
        """
        super().__init__()
        if dilation < 1:
            raise UsageError(f"the dilation of fc6 must be at least 1, got {dilation}")
        if not 0 <= dropout < 1:
            raise UsageError(f"dropout must be at least 0 and below 1, got {dropout}")
        self.fc6 = nn.Conv2d(in_channels, channels, 3, padding=dilation, dilation=dilation)
        self.fc7 = nn.Conv2d(channels, channels, 1)
        self.dropout = dropout
        init_conv(self.fc6)
        init_conv(self.fc7)

    def forward(self, features: Tensor) -> Tensor:
        """Gather the context of a large field of view.

        Args:
            features: ``(B, C, h, w)``, floating point.

        Returns:
            ``(B, D, h, w)``.
        """
        x = F.dropout(F.relu(self.fc6(features)), self.dropout, self.training)  # (B, D, h, w)
        return F.dropout(F.relu(self.fc7(x)), self.dropout, self.training)  # (B, D, h, w)
