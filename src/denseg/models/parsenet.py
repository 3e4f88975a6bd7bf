# SPDX-License-Identifier: Apache-2.0
"""ParseNet: the mean of the whole map beside every position, all features brought to one length before they are mixed.

Paper:
    W. Liu, A. Rabinovich, A. C. Berg, "ParseNet: Looking Wider to See Better", 2015. https://arxiv.org/abs/1506.04579 -
    Section 3, Figures 2 and 3.
Reference code:
    https://github.com/weiliu89/caffe, branch fcn (not copied).
Departures from the paper:
    Levels of different strides are brought to the finest one's size by interpolation; the paper's nets read levels of
    one stride. The scale of normalised features starts at 10.
Cost:
    That of DeepLab v1, on whose network it builds, and next to nothing more.

Shape letters: B batch, C image bands, K classes, D channels, H and W image height and width, h and w feature height
and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from denseg.errors import UsageError
from denseg.layers import GlobalContext, init_classifier
from denseg.layers.global_context import ScaledNormalization
from denseg.models.interface import SegmentationModel
from denseg.models.large_fov import LargeFOV
from denseg.ops import resize
from denseg.types import Geometry, SegmentationOutput

if TYPE_CHECKING:
    from denseg.backbones import Backbone

__all__ = ["NO_GRADIENT", "ParseNet"]

NO_GRADIENT: Mapping[str, str] = MappingProxyType({})


class ParseNet(SegmentationModel):
    """ParseNet; on VGG-16 the paper's network on DeepLab-LargeFOV."""

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Backbone,
        levels: int = 1,
        context: str = "last",
        channels: int = 1024,
        dilation: int | None = None,
        scale: float = 10.0,
        dropout: float = 0.5,
    ) -> None:
        """Create normalisations and classifier.

        Args:
            num_classes: Classes scored per pixel, K.
            backbone: The backbone, of output stride 8 in the paper.
            levels: Maps that are classified together, deepest first: ``fc7`` alone, then it and the backbone's last
                level but one, and so on. Each is normalised with scales of its own.
            context: ``last``: the mean of ``fc7`` alone is added, ``all``: the mean of every level, ``none``.
            channels: Channels of ``fc6`` and ``fc7``.
            dilation: Rate of ``fc6``; 12 at output stride 8 and in proportion at others if ``None``.
            scale: What the learned scales start at.
            dropout: Probability of dropping a value after ``fc6`` and ``fc7`` in training.

        Raises:
            UsageError: The backbone has not as many levels, or ``context`` is unknown.
        """
        super().__init__()
        if not 1 <= levels <= len(backbone.specs):
            raise UsageError(f"levels must be 1 to {len(backbone.specs)} on backbone {backbone.name!r}, got {levels}")
        if context not in {"all", "last", "none"}:
            raise UsageError(f"context is 'last', 'all' or 'none', got {context!r}")
        self.num_classes = num_classes
        self.in_channels = backbone.in_channels
        self.backbone = backbone
        stride = backbone.output_stride
        dilation = max(1, 12 * 8 // stride) if dilation is None else dilation
        self.head = LargeFOV(backbone.specs[-1].channels, channels=channels, dilation=dilation, dropout=dropout)
        self.levels = [len(backbone.specs) - 1 - step for step in range(1, levels)]
        widths = [channels, *(backbone.specs[level].channels for level in self.levels)]
        seen = [context == "all" or (context == "last" and index == 0) for index in range(levels)]
        self.norms = nn.ModuleList(
            GlobalContext(width, scale=scale) if wide else ScaledNormalization(width, scale=scale)
            for width, wide in zip(widths, seen, strict=True)
        )
        total = sum(width * (2 if wide else 1) for width, wide in zip(widths, seen, strict=True))
        self.classifier = init_classifier(nn.Conv2d(total, num_classes, 1))
        finest = backbone.specs[self.levels[-1]].stride if self.levels else stride
        self.geometry = Geometry(score_stride=finest, total_stride=stride)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel.

        Args:
            images: ``(B, C, H, W)``, floating point, any H and W >= 1.

        Returns:
            Scores of the image's size; ``features`` holds the normalised levels and means, one after the other.
        """
        pyramid = self.backbone(images)
        maps = [self.head(pyramid[-1]), *(pyramid[level] for level in self.levels)]
        size = (maps[-1].shape[-2], maps[-1].shape[-1])
        parts = [resize(norm(x), size) for norm, x in zip(self.norms, maps, strict=True)]
        features = torch.cat(parts, dim=1)  # (B, D, h, w)
        heatmap: Tensor = self.classifier(features)  # (B, K, h, w)
        return SegmentationOutput(resize(heatmap, (images.shape[-2], images.shape[-1])), (), heatmap, features)
