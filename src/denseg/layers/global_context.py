# SPDX-License-Identifier: Apache-2.0
"""Global context: the mean of the whole map beside each position, both brought to one length.

Paper:
    W. Liu, A. Rabinovich, A. C. Berg, "ParseNet: Looking Wider to See Better", 2015. https://arxiv.org/abs/1506.04579 -
    Sections 3.1 to 3.3: early fusion, L2 normalisation with a learned scale.
Reference code:
    https://github.com/weiliu89/caffe, branch fcn (not copied).
Departures from the paper:
    None known; the scale starts at 10, the value that is reported to work.
Cost:
    Next to nothing; what follows works on twice the channels.

Shape letters: B batch, C channels, h and w feature height and width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseg.errors import ShapeError

__all__ = ["GlobalContext", "ScaledNormalization"]


class ScaledNormalization(nn.Module):
    """Each position's feature vector brought to length 1, then each channel times a learned scale."""

    def __init__(self, in_channels: int, *, scale: float = 10.0) -> None:
        """Create the scales.

        Args:
            in_channels: Channels of the input and of the output, C.
            scale: What every channel's scale starts at.
        """
        super().__init__()
        self.scale = nn.Parameter(torch.full((in_channels,), float(scale)))

    def forward(self, features: Tensor) -> Tensor:
        """Normalise and scale.

        Args:
            features: ``(B, C, h, w)``, floating point; a vector of zeros stays zero.

        Returns:
            ``(B, C, h, w)``.
        """
        return F.normalize(features, dim=1, eps=1e-10) * self.scale.view(1, -1, 1, 1)


class GlobalContext(nn.Module):
    """ParseNet's module: normalised features and the normalised global mean, concatenated."""

    def __init__(self, in_channels: int, *, scale: float = 10.0) -> None:
        """Create the two normalisations.

        Args:
            in_channels: Channels of the input, C.
            scale: What every channel's scale starts at.
        """
        super().__init__()
        self.in_channels = in_channels
        self.local_norm = ScaledNormalization(in_channels, scale=scale)
        self.global_norm = ScaledNormalization(in_channels, scale=scale)

    def forward(self, features: Tensor) -> Tensor:
        """Put the mean of the whole map beside each position.

        Args:
            features: ``(B, C, h, w)``, floating point.

        Returns:
            ``(B, 2 * C, h, w)``: the position's own features, then the map's mean.

        Raises:
            ShapeError: ``features`` is not ``(B, C, h, w)``.
        """
        if features.ndim != 4 or features.shape[1] != self.in_channels:
            raise ShapeError(
                f"GlobalContext takes features of shape (B, {self.in_channels}, h, w), got {tuple(features.shape)}"
            )
        pooled = self.global_norm(features.mean(dim=(2, 3), keepdim=True))  # (B, C, 1, 1)
        return torch.cat([self.local_norm(features), pooled.expand_as(features)], dim=1)
