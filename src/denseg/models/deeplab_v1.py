# SPDX-License-Identifier: Apache-2.0
"""DeepLab v1 (LargeFOV): VGG-16 with holes at stride 8, its first fully connected layer a 3x3 convolution of rate 12.

Paper:
    L.-C. Chen, G. Papandreou, I. Kokkinos, K. Murphy, A. L. Yuille, "Semantic Image Segmentation with Deep
    Convolutional Nets and Fully Connected CRFs", ICLR 2015. https://arxiv.org/abs/1412.7062 - Sections 3.1 and 5,
    Table 3 (DeepLab-CRF-LargeFOV).
Reference code:
    The authors' Caffe files ``DeepLab-LargeFOV`` (not copied).
Departures from the paper:
    Interpolation does not align corners, and pools round sizes up by padding on both sides; at the paper's sizes
    (32 k - 31) the maps have the same sizes.
    The fully connected CRF that follows is ``denseg.inference.dense_crf``; it is no part of the network.
Cost:
    20.5 million parameters; the last five convolutions of the trunk run at stride 8.

Shape letters: B batch, C image bands, K classes, D channels, H and W image height and width, h and w feature height
and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from denseg.layers import init_classifier
from denseg.models.interface import SegmentationModel
from denseg.models.large_fov import LargeFOV
from denseg.ops import resize
from denseg.types import Geometry, SegmentationOutput

if TYPE_CHECKING:
    from denseg.backbones import Backbone

__all__ = ["NO_GRADIENT", "DeepLabV1"]

NO_GRADIENT: Mapping[str, str] = MappingProxyType({})


class DeepLabV1(SegmentationModel):
    """DeepLab-LargeFOV; on VGG-16 the paper's network."""

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Backbone,
        dilation: int | None = None,
        channels: int = 1024,
        average_pool: bool = True,
        dropout: float = 0.5,
    ) -> None:
        """Create the head.

        Args:
            num_classes: Classes scored per pixel, K.
            backbone: The backbone, of output stride 8 in the paper.
            dilation: Rate of ``fc6``; 12 at output stride 8 and in proportion at others if ``None``.
            channels: Channels of ``fc6`` and ``fc7``, D.
            average_pool: Average 3x3 positions before ``fc6``, as the released network does after its fifth pool.
            dropout: Probability of dropping a value after ``fc6`` and ``fc7`` in training.
        """
        super().__init__()
        self.num_classes = num_classes
        self.in_channels = backbone.in_channels
        self.backbone = backbone
        self.average_pool = average_pool
        stride = backbone.output_stride
        dilation = max(1, 12 * 8 // stride) if dilation is None else dilation
        self.head = LargeFOV(backbone.specs[-1].channels, channels=channels, dilation=dilation, dropout=dropout)
        self.classifier = init_classifier(nn.Conv2d(channels, num_classes, 1))
        self.geometry = Geometry(score_stride=stride, total_stride=stride)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel.

        Args:
            images: ``(B, C, H, W)``, floating point, any H and W >= 1.

        Returns:
            Scores of the image's size; ``features`` has D channels at the backbone's output stride.
        """
        deepest: Tensor = self.backbone(images)[-1]
        if self.average_pool:
            deepest = F.avg_pool2d(deepest, 3, stride=1, padding=1)
        features: Tensor = self.head(deepest)  # (B, D, h, w)
        heatmap: Tensor = self.classifier(features)  # (B, K, h, w)
        return SegmentationOutput(resize(heatmap, (images.shape[-2], images.shape[-1])), (), heatmap, features)
