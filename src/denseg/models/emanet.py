# SPDX-License-Identifier: Apache-2.0
"""EMANet: the map rebuilt from a few bases found by expectation-maximisation.

Paper:
    X. Li et al., "Expectation-Maximization Attention Networks for Semantic Segmentation", ICCV 2019.
    https://arxiv.org/abs/1907.13426
Reference code:
    https://github.com/XiaLiPKU/EMANet (not copied; GPL-3).
Departures from the paper:
    Batch norm keeps torch's momentum of 0.1; the released code takes 0.0003.
Cost:
    11.16 M parameters of the head at 59 classes; the unit itself is linear in the number of positions.

Shape letters: B batch, C image bands, K classes, D channels, H and W image height and width, h and w feature height
and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from torch import Tensor, nn

from denseg.layers import ConvBlock, init_classifier
from denseg.layers.expectation_maximization_attention import ExpectationMaximizationAttention
from denseg.models.interface import SegmentationModel
from denseg.ops import resize
from denseg.types import Geometry, SegmentationOutput

if TYPE_CHECKING:
    from denseg.backbones import Backbone

__all__ = ["NO_GRADIENT", "EMANet"]

NO_GRADIENT: Mapping[str, str] = MappingProxyType(
    {
        "attention.input.weight": "frozen: the EM iterations behind it carry no gradient",
        "attention.input.bias": "frozen: the EM iterations behind it carry no gradient",
    }
)


class EMANet(SegmentationModel):
    """EMANet on any dilated backbone."""

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Backbone,
        channels: int | None = None,
        bases: int = 64,
        iterations: int = 3,
        dropout: float = 0.1,
    ) -> None:
        """Create unit, fusion and classifier.

        Args:
            num_classes: Classes scored per pixel, K.
            backbone: The backbone, of output stride 8 in the paper.
            channels: Channels of the head, D; a quarter of the backbone's if ``None`` (512 on ResNet-50).
            bases: Number of bases, K of the paper.
            iterations: Expectation and maximisation steps, T.
            dropout: Probability of dropping a channel before a classifier in training.
        """
        super().__init__()
        self.num_classes = num_classes
        self.in_channels = backbone.in_channels
        self.backbone = backbone
        in_channels = backbone.specs[-1].channels
        channels = max(1, in_channels // 4) if channels is None else channels
        self.reduction = ConvBlock(in_channels, channels)
        self.attention = ExpectationMaximizationAttention(channels, bases=bases, iterations=iterations)
        self.fusion = ConvBlock(channels, max(1, channels // 2))
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = init_classifier(nn.Conv2d(max(1, channels // 2), num_classes, 1))
        stride = backbone.output_stride
        self.geometry = Geometry(score_stride=stride, total_stride=stride)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel.

        Args:
            images: ``(B, C, H, W)``, floating point, any H and W >= 1.

        Returns:
            Scores of the image's size; ``features`` has D / 2 channels.
        """
        size = (images.shape[-2], images.shape[-1])
        levels = self.backbone(images)
        features: Tensor = self.fusion(self.attention(self.reduction(levels[-1])))  # (B, D / 2, h, w)
        heatmap: Tensor = self.classifier(self.dropout(features))  # (B, K, h, w)
        return SegmentationOutput(resize(heatmap, size), (), heatmap, features)
