# SPDX-License-Identifier: Apache-2.0
"""DeepLab v3+: atrous spatial pyramid pooling for context, a small decoder for boundaries.

Paper:
    L.-C. Chen, Y. Zhu, G. Papandreou, F. Schroff, H. Adam, "Encoder-Decoder with Atrous Separable Convolution for
    Semantic Image Segmentation", ECCV 2018. https://arxiv.org/abs/1802.02611 - Section 3, Figure 2.
Reference code:
    https://github.com/tensorflow/models/tree/master/research/deeplab (not copied).
Departures from the paper:
    Interpolation does not align corners; batch norm keeps torch's momentum of 0.1.
    The low-level features are the backbone's level of stride 4 as timm gives it, after its ReLU.
Cost:
    The backbone dominates; at output stride 8 it takes nearly four times that of 16.

Shape letters: B batch, C image bands, K classes, D decoder channels, H and W image height and width, h and w feature
height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from denseg.layers import ASPP, ConvBlock, SeparableConv, init_classifier
from denseg.models.interface import SegmentationModel
from denseg.ops import resize
from denseg.types import Geometry, SegmentationOutput

if TYPE_CHECKING:
    from denseg.backbones import Backbone

__all__ = ["NO_GRADIENT", "DeepLabV3Plus"]

NO_GRADIENT: Mapping[str, str] = MappingProxyType({})


class DeepLabV3Plus(SegmentationModel):
    """DeepLab v3+ on any backbone that has a level of stride 4."""

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Backbone,
        separable: bool = True,
        dilations: Sequence[int] | None = None,
        decoder: bool = True,
        low_level_channels: int = 48,
        channels: int = 256,
        dropout: float = 0.1,
    ) -> None:
        """Create pyramid pooling, decoder and classifier.

        Args:
            num_classes: Classes scored per pixel, K.
            backbone: The backbone.
            separable: Depthwise separable 3x3 convolutions in pyramid and decoder.
            dilations: Rates of the pyramid; 6, 12, 18 at output stride 16 and in proportion at others if ``None``.
            decoder: Whether low-level features refine the scores; else the pyramid's output is classified.
            low_level_channels: Channels that the low-level features are reduced to.
            channels: Channels of pyramid and decoder, D.
            dropout: Probability of dropping a value of the pyramid's output in training.
        """
        super().__init__()
        self.num_classes = num_classes
        self.in_channels = backbone.in_channels
        self.backbone = backbone
        stride = backbone.output_stride
        if dilations is None:
            dilations = [max(1, rate * 16 // stride) for rate in (6, 12, 18)]  # Section 4: doubled at stride 8
        self.aspp = ASPP(
            backbone.specs[-1].channels,
            dilations=dilations,
            out_channels=channels,
            separable=separable,
            dropout=dropout,
        )
        self.decoder: Decoder | None = None
        if decoder:
            self.low_level = backbone.require_level(4, by="the decoder of deeplab_v3_plus")
            low_level = backbone.specs[self.low_level].channels
            self.decoder = Decoder(low_level, low_level_channels, channels, separable=separable)
        self.classifier = init_classifier(nn.Conv2d(channels, num_classes, 1))
        self.geometry = Geometry(score_stride=4 if decoder else stride, total_stride=stride)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel.

        Args:
            images: ``(B, C, H, W)``, floating point, any H and W >= 1.

        Returns:
            Scores of the image's size; ``features`` has D channels at stride 4, without decoder at the backbone's
            output stride.
        """
        levels = self.backbone(images)
        features: Tensor = self.aspp(levels[-1])  # (B, D, h, w)
        if self.decoder is not None:
            features = self.decoder(features, levels[self.low_level])  # (B, D, H / 4, W / 4)
        heatmap: Tensor = self.classifier(features)  # (B, K, H / 4, W / 4)
        logits = resize(heatmap, (images.shape[-2], images.shape[-1]))  # (B, K, H, W)
        return SegmentationOutput(logits, (), heatmap, features)


class Decoder(nn.Module):
    """Reduce the low-level features, concatenate them with the grown context, refine by two 3x3 convolutions."""

    def __init__(self, low_level: int, reduced: int, channels: int, *, separable: bool) -> None:
        super().__init__()
        self.reduction = ConvBlock(low_level, reduced, kernel_size=1)
        self.refinement = nn.Sequential(
            SeparableConv(channels + reduced, out_channels=channels)
            if separable
            else ConvBlock(channels + reduced, channels),
            SeparableConv(channels) if separable else ConvBlock(channels, channels),
        )

    def forward(self, context: Tensor, low_level: Tensor) -> Tensor:
        detail = self.reduction(low_level)  # (B, 48, h, w)
        context = resize(context, (detail.shape[-2], detail.shape[-1]))  # (B, D, h, w)
        refined: Tensor = self.refinement(torch.cat([context, detail], dim=1))  # (B, D, h, w)
        return refined
