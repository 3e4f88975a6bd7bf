# SPDX-License-Identifier: Apache-2.0
"""DANet: attention over positions and over channels, side by side.

Paper:
    J. Fu et al., "Dual Attention Network for Scene Segmentation", CVPR 2019. https://arxiv.org/abs/1809.02983
Reference code:
    https://github.com/junfu1115/DANet (not copied).
Departures from the paper:
    Maps grow with ``align_corners=False``.
Cost:
    The four 3x3 convolutions of the head, and (h w) ** 2 of position attention; 24.02 M parameters at 59 classes.

Shape letters: B batch, C image bands, K classes, D channels, H and W image height and width, h and w feature height
and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from torch import Tensor, nn

from denseg.layers import ConvBlock, init_classifier
from denseg.layers.channel_attention import ChannelAttention
from denseg.layers.position_attention import PositionAttention
from denseg.models.interface import SegmentationModel
from denseg.ops import resize
from denseg.types import Geometry, SegmentationOutput

if TYPE_CHECKING:
    from denseg.backbones import Backbone

__all__ = ["NO_GRADIENT", "DANet"]

NO_GRADIENT: Mapping[str, str] = MappingProxyType(
    {"position.1.key.bias": "adds the same to all scores of a query, which softmax ignores"}
)


class DANet(SegmentationModel):
    """DANet on any dilated backbone."""

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Backbone,
        channels: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        """Create the two branches and the three classifiers.

        Args:
            num_classes: Classes scored per pixel, K.
            backbone: The backbone, of output stride 8 in the paper.
            channels: Channels of the head, D; a quarter of the backbone's if ``None`` (512 on ResNet-50).
            dropout: Probability of dropping a channel before a classifier in training.
        """
        super().__init__()
        self.num_classes = num_classes
        self.in_channels = backbone.in_channels
        self.backbone = backbone
        in_channels = backbone.specs[-1].channels
        channels = max(1, in_channels // 4) if channels is None else channels
        self.position = nn.Sequential(
            ConvBlock(in_channels, channels), PositionAttention(channels), ConvBlock(channels, channels)
        )
        self.channel = nn.Sequential(
            ConvBlock(in_channels, channels), ChannelAttention(channels), ConvBlock(channels, channels)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = init_classifier(nn.Conv2d(channels, num_classes, 1))
        self.position_classifier = init_classifier(nn.Conv2d(channels, num_classes, 1))
        self.channel_classifier = init_classifier(nn.Conv2d(channels, num_classes, 1))
        stride = backbone.output_stride
        self.geometry = Geometry(score_stride=stride, total_stride=stride)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel.

        Args:
            images: ``(B, C, H, W)``, floating point, any H and W >= 1.

        Returns:
            Scores of the image's size; each branch alone gives auxiliary scores.
        """
        size = (images.shape[-2], images.shape[-1])
        levels = self.backbone(images)
        position: Tensor = self.position(levels[-1])  # (B, D, h, w)
        channel: Tensor = self.channel(levels[-1])  # (B, D, h, w)
        features = position + channel
        heatmap: Tensor = self.classifier(self.dropout(features))  # (B, K, h, w)
        aux_logits = (
            resize(self.position_classifier(self.dropout(position)), size),
            resize(self.channel_classifier(self.dropout(channel)), size),
        )
        return SegmentationOutput(resize(heatmap, size), aux_logits, heatmap, features)
