# SPDX-License-Identifier: Apache-2.0
"""Any context layer of the catalog on any backbone: the common ground on which layers are compared.

Paper:
    None of its own: the frame is the dilated FCN's (J. Long et al., https://arxiv.org/abs/1411.4038), the layer brings
    its paper.
Reference code:
    None.
Departures from the paper:
    A layer's own network may reduce, fuse or supervise in another way; here all layers get the same frame: 3x3
    convolution, layer, 3x3 convolution, classifier, and one auxiliary classifier.
Cost:
    The two 3x3 convolutions, and what the layer costs.

Shape letters: B batch, C image bands, K classes, D channels, H and W image height and width, h and w feature height
and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from denseg.errors import UnknownNameError
from denseg.layers import LAYERS, ConvBlock, init_classifier
from denseg.models.auxiliary import AuxiliaryHead
from denseg.models.interface import SegmentationModel
from denseg.ops import resize
from denseg.types import Geometry, SegmentationOutput

if TYPE_CHECKING:
    from denseg.backbones import Backbone

__all__ = ["NO_GRADIENT", "Context"]

NO_GRADIENT: Mapping[str, str] = MappingProxyType({})


class Context(SegmentationModel):
    """A backbone, a context layer, a classifier."""

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Backbone,
        layer: str = "aspp",
        layer_options: Mapping[str, Any] | None = None,
        channels: int | None = None,
        auxiliary: bool = True,
        dropout: float = 0.1,
    ) -> None:
        """Create the frame and the layer in it.

        Args:
            num_classes: Classes scored per pixel, K.
            backbone: The backbone, usually of output stride 8.
            layer: Catalog name of the layer, see ``LAYERS``.
            layer_options: Keyword arguments of the layer.
            channels: Channels before and after the layer, D; a quarter of the backbone's if ``None``.
            auxiliary: Whether a second classifier sits on the last level but one.
            dropout: Probability of dropping a channel before a classifier in training.

        Raises:
            UnknownNameError: There is no layer of that name.
        """
        super().__init__()
        if layer not in LAYERS:
            raise UnknownNameError("layer", layer, LAYERS)
        self.num_classes = num_classes
        self.in_channels = backbone.in_channels
        self.backbone = backbone
        in_channels = backbone.specs[-1].channels
        channels = max(8, in_channels // 4) if channels is None else channels
        self.reduction = ConvBlock(in_channels, channels)
        self.layer = LAYERS[layer](channels, **dict(layer_options or {}))
        self.expansion = ConvBlock(_out_channels(self.layer, channels), channels)
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
        features: Tensor = self.expansion(self.layer(self.reduction(levels[-1])))  # (B, D, h, w)
        heatmap: Tensor = self.classifier(self.dropout(features))  # (B, K, h, w)
        aux_logits = () if self.auxiliary is None else (self.auxiliary(levels, size),)
        return SegmentationOutput(resize(heatmap, size), aux_logits, heatmap, features)


@torch.no_grad()
def _out_channels(layer: nn.Module, in_channels: int) -> int:
    """Ask the layer itself, in evaluation, so that nothing in it moves."""
    layer.eval()
    out: Tensor = layer(torch.zeros(1, in_channels, 2, 2))
    layer.train()
    return out.shape[1]
