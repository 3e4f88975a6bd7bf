# SPDX-License-Identifier: Apache-2.0
"""ACNet: a dilated FCN in which every square convolution is trained with a row and a column beside it.

Paper:
    X. Ding, Y. Guo, G. Ding, J. Han, "ACNet: Strengthening the Kernel Skeletons for Powerful CNN via Asymmetric
    Convolution Blocks", ICCV 2019. https://arxiv.org/abs/1908.03930
Reference code:
    https://github.com/DingXiaoH/ACNet (not copied); it classifies, the paper has no segmentation network.
Departures from the paper:
    The network around the blocks is the dilated FCN. Of a pretrained backbone the square branch takes kernel and norm,
    and row and column start with weight 0, so that training starts from what the weights were trained to; a backbone
    without weights starts as in the paper.
Cost:
    Training takes about 1 + 2 / k of the square kernels' products; after ``fuse`` the network is the plain FCN.

Shape letters: B batch, C image bands, K classes, D channels, H and W image height and width, h and w feature height
and width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from denseg.layers import ConvBlock, fuse_asymmetric_convs, init_classifier, use_asymmetric_convs
from denseg.models.auxiliary import AuxiliaryHead
from denseg.models.interface import SegmentationModel
from denseg.ops import resize
from denseg.types import Geometry, SegmentationOutput

if TYPE_CHECKING:
    from denseg.backbones import Backbone

__all__ = ["NO_GRADIENT", "ACNet"]

NO_GRADIENT: Mapping[str, str] = MappingProxyType({})


class ACNet(SegmentationModel):
    """Dilated FCN of asymmetric convolutions on any backbone."""

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Backbone,
        channels: int | None = None,
        auxiliary: bool = True,
        branch_weight: float = 1.0,
        fused: bool = False,
        dropout: float = 0.1,
    ) -> None:
        """Create the FCN and strengthen its kernels.

        Args:
            num_classes: Classes scored per pixel, K.
            backbone: The backbone, usually of output stride 8; changed.
            channels: Channels of the head, D; a quarter of the backbone's if ``None`` (512 on ResNet-50).
            auxiliary: Whether a second classifier sits on the last level but one.
            branch_weight: Weight that the branches' norms start with; see ``AsymmetricConv``.
            fused: Square convolutions again, for weights that ``fuse`` gave.
            dropout: Probability of dropping a channel before a classifier in training.
        """
        super().__init__()
        self.num_classes = num_classes
        self.in_channels = backbone.in_channels
        self.backbone = backbone
        in_channels = backbone.specs[-1].channels
        channels = max(1, in_channels // 4) if channels is None else channels
        self.head = ConvBlock(in_channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = init_classifier(nn.Conv2d(channels, num_classes, 1))
        self.auxiliary = AuxiliaryHead(backbone, num_classes, dropout=dropout) if auxiliary else None
        stride = backbone.output_stride
        self.geometry = Geometry(score_stride=stride, total_stride=stride)
        images = self.classifier.weight.new_zeros(1, self.in_channels, 2 * stride, 2 * stride)
        trained = backbone.pretrained
        use_asymmetric_convs(
            self, images, branch_weight=branch_weight, keep=lambda name: trained and name.startswith("backbone.")
        )
        if fused:
            fuse_asymmetric_convs(self)

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
        heatmap: Tensor = self.classifier(self.dropout(features))  # (B, K, h, w)
        aux_logits = () if self.auxiliary is None else (self.auxiliary(levels, size),)
        return SegmentationOutput(resize(heatmap, size), aux_logits, heatmap, features)

    @torch.no_grad()
    def fuse(self) -> ACNet:
        """Turn every block into one square convolution.

        Returns:
            A copy in evaluation mode that scores as this does in evaluation, and is saved as ``fused``.
        """
        fused = copy.deepcopy(self).eval()
        fuse_asymmetric_convs(fused)
        fused.spec = replace(self.spec, arguments={**self.spec.arguments, "fused": True})
        return fused
