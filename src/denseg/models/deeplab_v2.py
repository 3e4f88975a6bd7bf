# SPDX-License-Identifier: Apache-2.0
"""DeepLab v2: classifiers at four rates whose scores are summed, and the maximum over three image scales.

Paper:
    L.-C. Chen, G. Papandreou, I. Kokkinos, K. Murphy, A. L. Yuille, "DeepLab: Semantic Image Segmentation with Deep
    Convolutional Nets, Atrous Convolution, and Fully Connected CRFs", TPAMI 2018. https://arxiv.org/abs/1606.00915 -
    Sections 3.1 and 3.2, Figures 4 and 7.
Reference code:
    The authors' Caffe files, and https://github.com/kazuto1011/deeplab-pytorch (neither copied).
Departures from the paper:
    Interpolation does not align corners. timm's ResNets have the stride of a bottleneck in its 3x3 convolution, the
    paper's Caffe network in the 1x1 convolution before it.
    The fully connected CRF that follows is ``denseg.inference.dense_crf``; it is no part of the network.
Cost:
    The backbone at output stride 8 dominates; three scales take 1.8 times one.

Shape letters: B batch, C image bands, K classes, D channels, H and W image height and width, h and w feature height
and width.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from denseg.errors import UsageError
from denseg.models.interface import SegmentationModel
from denseg.models.large_fov import LargeFOV
from denseg.ops import resize
from denseg.types import Geometry, SegmentationOutput

if TYPE_CHECKING:
    from denseg.backbones import Backbone

__all__ = ["NO_GRADIENT", "DeepLabV2"]

NO_GRADIENT: Mapping[str, str] = MappingProxyType({})


class DeepLabV2(SegmentationModel):
    """DeepLab v2; on ResNet-101 and on VGG-16 the paper's networks."""

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Backbone,
        dilations: Sequence[int] | None = None,
        channels: int | None = None,
        scales: Sequence[float] = (1.0,),
        dropout: float = 0.5,
    ) -> None:
        """Create one classifier per rate.

        Args:
            num_classes: Classes scored per pixel, K.
            backbone: The backbone, of output stride 8 in the paper.
            dilations: One branch each; 6, 12, 18, 24 (ASPP-L) at output stride 8 and in proportion at others if
                ``None``. ASPP-S takes 2, 4, 8, 12.
            channels: Channels of ``fc6`` and ``fc7`` in each branch, D; 0 for a single 3x3 convolution per branch. If
                ``None``, 1024 for backbones without batch norm (VGG), 0 for others (ResNet), as in the paper.
            scales: Sizes at which the image is scored, the first one 1; the paper takes 1, 0.75, 0.5. Their scores'
                maximum counts, and each one's is an auxiliary output.
            dropout: Probability of dropping a value after ``fc6`` and ``fc7`` in training.

        Raises:
            UsageError: There is no branch, a rate is not positive, or the first scale is not 1.
        """
        super().__init__()
        stride = backbone.output_stride
        if dilations is None:
            dilations = [max(1, rate * 8 // stride) for rate in (6, 12, 18, 24)]
        if not dilations or any(dilation < 1 for dilation in dilations):
            raise UsageError(f"dilations must be at least 1, one or more of them, got {list(dilations)}")
        if not scales or scales[0] != 1 or any(scale <= 0 for scale in scales):
            raise UsageError(f"scales must begin with 1 and be above 0, for example [1, 0.75, 0.5], got {list(scales)}")
        self.num_classes = num_classes
        self.in_channels = backbone.in_channels
        self.backbone = backbone
        self.scales = tuple(scales)
        if channels is None:
            channels = 0 if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in backbone.modules()) else 1024
        in_channels = backbone.specs[-1].channels
        self.branches = nn.ModuleList()
        self.classifiers = nn.ModuleList()
        for dilation in dilations:
            if channels:
                self.branches.append(LargeFOV(in_channels, channels=channels, dilation=dilation, dropout=dropout))
                classifier = nn.Conv2d(channels, num_classes, 1)
            else:
                self.branches.append(nn.Identity())
                classifier = nn.Conv2d(in_channels, num_classes, 3, padding=dilation, dilation=dilation)
            nn.init.normal_(classifier.weight, std=0.01)  # the released networks' filler
            if classifier.bias is not None:
                nn.init.zeros_(classifier.bias)
            self.classifiers.append(classifier)
        self.geometry = Geometry(score_stride=stride, total_stride=stride)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel.

        Args:
            images: ``(B, C, H, W)``, floating point, any H and W >= 1.

        Returns:
            Scores of the image's size; with several scales ``aux_logits`` holds each one's. ``features`` is the last
            branch's input of the classifier, at the first scale.
        """
        size = (images.shape[-2], images.shape[-1])
        heatmap, features = self._score(images)  # (B, K, h, w)
        if len(self.scales) == 1:
            return SegmentationOutput(resize(heatmap, size), (), heatmap, features)
        parts = [heatmap]
        for scale in self.scales[1:]:
            smaller = (max(1, round(scale * size[0])), max(1, round(scale * size[1])))
            scores, _ = self._score(resize(images, smaller))
            parts.append(resize(scores, (heatmap.shape[-2], heatmap.shape[-1])))  # (B, K, h, w)
        fused = functools.reduce(torch.maximum, parts)
        return SegmentationOutput(resize(fused, size), tuple(resize(part, size) for part in parts), fused, features)

    def _score(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score one scale; give its heatmap and the last branch's features."""
        deepest = self.backbone(images)[-1]
        inputs = [branch(deepest) for branch in self.branches]
        scores = [classifier(x) for classifier, x in zip(self.classifiers, inputs, strict=True)]
        return functools.reduce(torch.add, scores), inputs[-1]
