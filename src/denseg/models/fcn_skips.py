# SPDX-License-Identifier: Apache-2.0
"""FCN-32s, -16s and -8s on any backbone: scores of several levels, each grown onto the next finer one and added.

Paper:
    J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015.
    https://arxiv.org/abs/1411.4038 - Section 4.2, Figure 3.
Reference code:
    https://github.com/shelhamer/fcn.berkeleyvision.org (Caffe; not copied).
Departures from the paper:
    The modern form: any backbone with its own padding, so that nothing is cropped; growth is interpolation, which is
    what the paper's fixed kernels compute away from borders; fc6 and fc7 only where ``channels`` asks for them.
Cost:
    The backbone; the score layers are 1x1.

Shape letters: B batch, C image bands, K classes, D channels, H and W image height and width, h and w feature height
and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from denseg.errors import UsageError
from denseg.layers import init_classifier, init_conv
from denseg.models.interface import SegmentationModel
from denseg.ops import resize
from denseg.types import Geometry, SegmentationOutput

if TYPE_CHECKING:
    from denseg.backbones import Backbone

__all__ = ["NO_GRADIENT", "SkipFCN"]

NO_GRADIENT: Mapping[str, str] = MappingProxyType({})


class SkipFCN(SegmentationModel):
    """FCN-32s without ``skips``, FCN-16s with ``(16,)``, FCN-8s with ``(16, 8)``, and any other subset."""

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Backbone,
        skips: Sequence[int] = (),
        channels: int | None = None,
        dropout: float = 0.5,
    ) -> None:
        """Create the score layers.

        Args:
            num_classes: Classes scored per pixel, K.
            backbone: The backbone, usually of output stride 32.
            skips: Strides of the levels whose scores are added, each finer than the backbone's output stride.
            channels: Channels of fc6 (7x7) and fc7 (1x1) between backbone and score, as in a classifier made
                convolutional; without them if ``None``.
            dropout: Probability of dropping a value before the deepest score in training.

        Raises:
            UsageError: A skip is not finer than the output stride, or ``channels`` is not positive.
        """
        super().__init__()
        stride = backbone.output_stride
        wanted = sorted(set(skips), reverse=True)
        if any(skip >= stride or skip < 1 for skip in wanted):
            raise UsageError(f"skips are strides finer than the output stride {stride}, got {list(skips)}")
        if channels is not None and channels < 1:
            raise UsageError(f"channels must be at least 1, got {channels}")
        self.num_classes = num_classes
        self.in_channels = backbone.in_channels
        self.backbone = backbone
        self.dropout = dropout
        before = backbone.specs[-1].channels
        self.fc6 = self.fc7 = None
        if channels is not None:
            self.fc6, self.fc7 = nn.Conv2d(before, channels, 7, padding=3), nn.Conv2d(channels, channels, 1)
            init_conv(self.fc6)
            init_conv(self.fc7)
            before = channels
        self.score_fr = init_classifier(nn.Conv2d(before, num_classes, 1))
        self._levels: list[tuple[str, int]] = []
        for skip in wanted:
            level = backbone.require_level(skip, by=f"an FCN with a skip of stride {skip}")
            name = f"score_pool{skip.bit_length() - 1}"
            score = nn.Conv2d(backbone.specs[level].channels, num_classes, 1)
            for parameter in score.parameters():
                nn.init.zeros_(parameter)  # Section 4.2: the net starts as the coarser one
            self.add_module(name, score)
            self._levels.append((name, level))
        self.geometry = Geometry(score_stride=wanted[-1] if wanted else stride, total_stride=stride)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel.

        Args:
            images: ``(B, C, H, W)``, floating point, any H and W >= 1.

        Returns:
            Scores of the image's size; ``heatmap`` is their sum at the finest stride that is scored.
        """
        levels = self.backbone(images)
        features = levels[-1]  # (B, D, h, w)
        if self.fc6 is not None and self.fc7 is not None:
            features = F.dropout(F.relu(self.fc6(features)), self.dropout, self.training)
            features = F.relu(self.fc7(features))
        scores = self.score_fr(F.dropout(features, self.dropout, self.training))  # (B, K, h, w)
        for name, level in self._levels:
            score = self.get_submodule(name)(levels[level])  # (B, K, h', w')
            scores = resize(scores, (score.shape[-2], score.shape[-1])) + score
        return SegmentationOutput(resize(scores, (images.shape[-2], images.shape[-1])), (), scores, features)
