# SPDX-License-Identifier: Apache-2.0
"""The auxiliary classifier on the last level but one: deep supervision, as PSPNet introduced it.

Shape letters: B batch, C channels of the level, K classes, D channels, H and W image height and width, h and w feature
height and width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from denseg.layers import ConvBlock, init_classifier
from denseg.ops import resize

if TYPE_CHECKING:
    from denseg.backbones import Backbone

__all__ = ["AuxiliaryHead"]


class AuxiliaryHead(nn.Module):
    """3x3 convolution, batch norm, ReLU, channel dropout, classifier."""

    def __init__(
        self, backbone: Backbone, num_classes: int, *, channels: int | None = None, dropout: float = 0.1
    ) -> None:
        """Create the head on the backbone's last level but one.

        Args:
            backbone: The backbone.
            num_classes: Classes scored per pixel, K.
            channels: D; a quarter of the level's if ``None`` (256 on ResNet-50).
            dropout: Probability of dropping a channel in training.
        """
        super().__init__()
        in_channels = backbone.specs[-2].channels
        channels = max(1, in_channels // 4) if channels is None else channels
        self.block = ConvBlock(in_channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = init_classifier(nn.Conv2d(channels, num_classes, 1))

    def forward(self, levels: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        """Score every pixel from the last level but one.

        Args:
            levels: The backbone's pyramid, each ``(B, C, h, w)``.
            size: Height and width of the image, in pixels.

        Returns:
            ``(B, K, H, W)``.
        """
        scores: Tensor = self.classifier(self.dropout(self.block(levels[-2])))  # (B, K, h, w)
        return resize(scores, size)
