# SPDX-License-Identifier: Apache-2.0
"""Dilated FCN: a backbone that keeps its resolution, one 3x3 convolution, one classifier.

Paper:
    J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015.
    https://arxiv.org/abs/1411.4038
    F. Yu, V. Koltun, T. Funkhouser, "Dilated Residual Networks", CVPR 2017, for the dilated backbone.
    https://arxiv.org/abs/1705.09914
Reference code:
    torchvision ``fcn_resnet50`` (equal to this with copied weights), MMSegmentation ``FCNHead``.
Departures from the paper:
    The baseline that libraries call FCN, not the paper's: no skips, no deconvolution; an auxiliary classifier on the
    last level but one. The paper's nets are ``fcn32s``, ``fcn16s`` and ``fcn8s``.
Cost:
    The backbone at output stride 8 dominates.

Shape letters: B batch, C image bands, K classes, D channels, H and W image height and width, h and w feature height
and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from denseg.layers import ConvBlock, init_classifier
from denseg.models.interface import SegmentationModel
from denseg.ops import resize
from denseg.types import Geometry, SegmentationOutput

if TYPE_CHECKING:
    from denseg.backbones import Backbone

__all__ = ["FCN", "NO_GRADIENT"]

NO_GRADIENT: Mapping[str, str] = MappingProxyType({})


class FCN(SegmentationModel):
    """FCN of torchvision and MMSegmentation."""

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Backbone,
        channels: int | None = None,
        auxiliary: bool = True,
        dropout: float = 0.1,
    ) -> None:
        """Create the head.

        Args:
            num_classes: Classes scored per pixel, K.
            backbone: The backbone, usually of output stride 8.
            channels: Channels of the head, D; a quarter of the backbone's if ``None`` (512 on ResNet-50).
            auxiliary: Whether a second classifier sits on the last level but one.
            dropout: Probability of dropping a value before a classifier in training.
        """
        super().__init__()
        self.num_classes = num_classes
        self.in_channels = backbone.in_channels
        self.backbone = backbone
        self.head = _Head(backbone.specs[-1].channels, channels, dropout)
        self.classifier = init_classifier(nn.Conv2d(self.head.channels, num_classes, 1))
        self.aux_head: _Head | None = None
        if auxiliary:
            self.aux_head = _Head(backbone.specs[-2].channels, None, dropout)
            self.aux_classifier = init_classifier(nn.Conv2d(self.aux_head.channels, num_classes, 1))
        stride = backbone.output_stride
        self.geometry = Geometry(score_stride=stride, total_stride=stride)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel.

        Args:
            images: ``(B, C, H, W)``, floating point, any H and W >= 1.

        Returns:
            Scores of the image's size; ``features`` has D channels at the backbone's output stride.
        """
        size = (images.shape[-2], images.shape[-1])
        levels = self.backbone(images)
        features: Tensor = self.head(levels[-1])  # (B, D, h, w)
        heatmap: Tensor = self.classifier(features)  # (B, K, h, w)
        aux_logits: tuple[Tensor, ...] = ()
        if self.aux_head is not None:
            scores = self.aux_classifier(self.aux_head(levels[-2]))  # (B, K, h', w')
            aux_logits = (resize(scores, size),)  # (B, K, H, W)
        return SegmentationOutput(resize(heatmap, size), aux_logits, heatmap, features)


class _Head(nn.Module):
    """3x3 convolution, batch norm, ReLU, dropout."""

    def __init__(self, in_channels: int, channels: int | None, dropout: float) -> None:
        super().__init__()
        self.channels = max(1, in_channels // 4) if channels is None else channels  # torchvision's rule
        self.block = ConvBlock(in_channels, self.channels)
        self.dropout = dropout

    def forward(self, features: Tensor) -> Tensor:
        return F.dropout(self.block(features), self.dropout, self.training)
