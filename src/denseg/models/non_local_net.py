# SPDX-License-Identifier: Apache-2.0
"""Non-local network: a dilated FCN whose head holds a non-local block.

Paper:
    X. Wang, R. Girshick, A. Gupta, K. He, "Non-local Neural Networks", CVPR 2018. https://arxiv.org/abs/1711.07971
Reference code:
    MMSegmentation ``NLHead``, whose layout this has (not copied); the paper has no segmentation network.
Departures from the paper:
    None in the block; the network around it is MMSegmentation's.
Cost:
    (h w) ** 2 of the block beside the 3x3 convolutions.

Shape letters: B batch, C image bands, K classes, D channels, H and W image height and width, h and w feature height
and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from denseg.layers import ConvBlock, init_classifier
from denseg.layers.non_local import NonLocal, Pairwise
from denseg.models.auxiliary import AuxiliaryHead
from denseg.models.interface import SegmentationModel
from denseg.ops import resize
from denseg.types import Geometry, SegmentationOutput

if TYPE_CHECKING:
    from denseg.backbones import Backbone

__all__ = ["NO_GRADIENT", "NonLocalNet"]

NO_GRADIENT: Mapping[str, str] = MappingProxyType(
    {
        "block.phi.bias": "adds the same to all scores of a query, which softmax ignores",
        "block.g.bias": "passes the weighted mean as a constant, which batch norm subtracts",
    }
)


class NonLocalNet(SegmentationModel):
    """Non-local block on any dilated backbone."""

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Backbone,
        channels: int | None = None,
        pairwise: Pairwise = "embedded_gaussian",
        subsample: bool = False,
        auxiliary: bool = True,
        dropout: float = 0.1,
    ) -> None:
        """Create block, fusion and classifiers.

        Args:
            num_classes: Classes scored per pixel, K.
            backbone: The backbone, of output stride 8 in the paper.
            channels: Channels of the head, D; a quarter of the backbone's if ``None`` (512 on ResNet-50).
            pairwise: How two positions are compared, see ``NonLocal``.
            subsample: Halve the map that keys and values are taken from.
            auxiliary: Whether a second classifier sits on the last level but one.
            dropout: Probability of dropping a channel before a classifier in training.
        """
        super().__init__()
        self.num_classes = num_classes
        self.in_channels = backbone.in_channels
        self.backbone = backbone
        in_channels = backbone.specs[-1].channels
        channels = max(1, in_channels // 4) if channels is None else channels
        self.reduction = ConvBlock(in_channels, channels)
        self.block = NonLocal(channels, pairwise=pairwise, subsample=subsample)
        self.expansion = ConvBlock(channels, channels)
        self.fusion = ConvBlock(in_channels + channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = init_classifier(nn.Conv2d(channels, num_classes, 1))
        self.auxiliary = AuxiliaryHead(backbone, num_classes, dropout=dropout) if auxiliary else None
        stride = backbone.output_stride
        self.geometry = Geometry(score_stride=stride, total_stride=stride)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel.

        Args:
            images: ``(B, C, H, W)``, floating point, any H and W >= 1.

        Returns:
            Scores of the image's size; ``features`` has D channels.
        """
        size = (images.shape[-2], images.shape[-1])
        levels = self.backbone(images)
        context = self.expansion(self.block(self.reduction(levels[-1])))  # (B, D, h, w)
        features: Tensor = self.fusion(torch.cat([levels[-1], context], dim=1))  # (B, D, h, w)
        heatmap: Tensor = self.classifier(self.dropout(features))  # (B, K, h, w)
        aux_logits = () if self.auxiliary is None else (self.auxiliary(levels, size),)
        return SegmentationOutput(resize(heatmap, size), aux_logits, heatmap, features)
