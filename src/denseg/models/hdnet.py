# SPDX-License-Identifier: Apache-2.0
"""HDNet: location-aware attention beside channel attention, and features that know their class's centre.

Paper:
    C. Li, W. Kang, S. Zhu, X. Ye, Z. Feng, Y. Ming, "HDNet: Hybrid Distance Network for semantic segmentation",
    Neurocomputing 447 (2021) 129-144. https://doi.org/10.1016/j.neucom.2021.02.045
Reference code:
    https://github.com/Anstarc/HDNet (not copied; it has no licence).
Departures from the paper:
    The released code draws the pretrained backbone anew; only the head is drawn here.
    Maps grow with ``align_corners=False``.
Cost:
    The four 3x3 convolutions of the head dominate; 23.96 M parameters at 59 classes on ResNet-50 or -101.

Shape letters: B batch, C image bands, K classes, D channels, H and W image height and width, h and w feature height
and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from denseg.layers import ConvBlock, init_classifier
from denseg.layers.channel_attention import ChannelAttention
from denseg.layers.location_aware_attention import LocationAwareAttention
from denseg.models.interface import SegmentationModel
from denseg.ops import resize
from denseg.types import Geometry, SegmentationOutput

if TYPE_CHECKING:
    from denseg.backbones import Backbone

__all__ = ["NO_GRADIENT", "HDNet"]

NO_GRADIENT: Mapping[str, str] = MappingProxyType(
    {"spatial.1.interaction.bias": "a bias before batch norm is subtracted with the mean"}
)


class HDNet(SegmentationModel):
    """HDNet on any dilated backbone. Its second loss, ``HFDLoss``, is applied to ``out.features``."""

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Backbone,
        channels: int | None = None,
        windows: Sequence[int] = (3, 5, 7, 9, 11, 15, 19),
        attention: bool = True,
        attention_options: Mapping[str, Any] | None = None,
        dropout: float = 0.1,
    ) -> None:
        """Create the two branches and the classifier.

        Args:
            num_classes: Classes scored per pixel, K.
            backbone: The backbone, of output stride 8 in the paper.
            channels: Channels of the head, D; a quarter of the backbone's if ``None`` (512 on ResNet-50).
            windows: Sides of the relation's windows, in positions.
            attention: Whether the spatial branch holds location-aware attention; without it the branch is two
                convolutions, the ablation.
            attention_options: Further options of the attention, see ``LocationAwareAttention``; not the paper's.
            dropout: Probability of dropping a channel before a classifier in training.
        """
        super().__init__()
        self.num_classes = num_classes
        self.in_channels = backbone.in_channels
        self.backbone = backbone
        in_channels = backbone.specs[-1].channels
        channels = max(1, in_channels // 4) if channels is None else channels
        middle = (
            LocationAwareAttention(channels, windows=windows, **dict(attention_options or {}))
            if attention
            else nn.Identity()
        )
        self.spatial = nn.Sequential(ConvBlock(in_channels, channels), middle, ConvBlock(channels, channels))
        self.channel = nn.Sequential(
            ConvBlock(in_channels, channels), ChannelAttention(channels), ConvBlock(channels, channels)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = init_classifier(nn.Conv2d(channels, num_classes, 1))
        stride = backbone.output_stride
        self.geometry = Geometry(score_stride=stride, total_stride=stride)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel.

        Args:
            images: ``(B, C, H, W)``, floating point, any H and W >= 1.

        Returns:
            Scores of the image's size; ``features`` is the sum of the branches, D channels.
        """
        size = (images.shape[-2], images.shape[-1])
        levels = self.backbone(images)
        features: Tensor = self.spatial(levels[-1]) + self.channel(levels[-1])  # (B, D, h, w)
        heatmap: Tensor = self.classifier(self.dropout(features))  # (B, K, h, w)
        return SegmentationOutput(resize(heatmap, size), (), heatmap, features)
