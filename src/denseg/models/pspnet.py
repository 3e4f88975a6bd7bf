# SPDX-License-Identifier: Apache-2.0
"""PSPNet: a dilated backbone, the averages over four grids of regions, one 3x3 convolution.

Paper:
    H. Zhao, J. Shi, X. Qi, X. Wang, J. Jia, "Pyramid Scene Parsing Network", CVPR 2017.
    https://arxiv.org/abs/1612.01105 - Sections 3.2 and 3.3, Figures 3 and 4.
Reference code:
    https://github.com/hszhao/semseg (PyTorch), https://github.com/hszhao/PSPNet (Caffe; neither copied);
    segmentation_models_pytorch ``PSPNet``, to which ``layout="smp"`` makes this equal with copied weights.
Departures from the paper:
    The backbone's stem is the named network's unless ``stem="deep"`` asks for the released code's: three 3x3
    convolutions (64, 64, 128), for which there are no ImageNet weights here.
    Maps grow with ``align_corners=False`` unless asked; both released codes take True.
Cost:
    The 3x3 convolution on twice the backbone's channels dominates; 23.10 M parameters of the head at 59 classes.

Shape letters: B batch, C image bands, K classes, D channels, H and W image height and width, h and w feature height
and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from torch import Tensor, nn

from denseg.errors import UsageError
from denseg.layers import ConvBlock, init_classifier
from denseg.layers.pyramid_pooling import PyramidPooling
from denseg.models.auxiliary import AuxiliaryHead
from denseg.models.interface import SegmentationModel
from denseg.ops import resize
from denseg.types import Geometry, SegmentationOutput

if TYPE_CHECKING:
    from denseg.backbones import Backbone

__all__ = ["NO_GRADIENT", "PSPNet"]

NO_GRADIENT: Mapping[str, str] = MappingProxyType({})


class PSPNet(SegmentationModel):
    """PSPNet on any dilated backbone."""

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Backbone,
        bins: Sequence[int] = (1, 2, 3, 6),
        channels: int | None = None,
        auxiliary: bool | None = None,
        align_corners: bool | None = None,
        layout: str = "paper",
        dropout: float | None = None,
    ) -> None:
        """Create pyramid pooling, fusion and classifiers.

        Args:
            num_classes: Classes scored per pixel, K.
            backbone: The backbone, of output stride 8 in the paper.
            bins: Regions per axis of each grid.
            channels: Channels of the fused map, D; a quarter of the backbone's if ``None`` (512 on ResNet-50), in the
                layout ``smp`` 512.
            auxiliary: Whether a second classifier sits on the last level but one; in the layout ``paper`` if ``None``.
            align_corners: How maps grow; True for the released weights, and in the layout ``smp`` if ``None``.
            layout: ``paper``, or ``smp`` for segmentation_models_pytorch's: the grids' maps before the input, no norm
                at grids of one region, a 1x1 fusion, a 3x3 classifier. It takes the backbone with ``depth=3``.
            dropout: Probability of dropping a channel before a classifier in training; 0.1, in the layout ``smp`` 0.2,
                if ``None``.

        Raises:
            UsageError: ``layout`` is unknown.
        """
        super().__init__()
        if layout not in {"paper", "smp"}:
            raise UsageError(f"layout is 'paper' or 'smp', got {layout!r}")
        smp = layout == "smp"
        align_corners = smp if align_corners is None else align_corners
        dropout = (0.2 if smp else 0.1) if dropout is None else dropout
        self.num_classes = num_classes
        self.in_channels = backbone.in_channels
        self.backbone = backbone
        self.align_corners = align_corners
        in_channels = backbone.specs[-1].channels
        if channels is None:
            channels = 512 if smp else max(1, in_channels // 4)
        self.pyramid = PyramidPooling(
            in_channels, bins=bins, align_corners=align_corners, context_first=smp, norm_single=not smp
        )
        width = max(1, in_channels // len(self.pyramid.bins))
        fused = in_channels + len(self.pyramid.bins) * width
        self.fusion = ConvBlock(fused, channels, kernel_size=1 if smp else 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = init_classifier(nn.Conv2d(channels, num_classes, 3 if smp else 1, padding=1 if smp else 0))
        supervised = not smp if auxiliary is None else auxiliary
        self.auxiliary = AuxiliaryHead(backbone, num_classes, dropout=dropout) if supervised else None
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
        features: Tensor = self.fusion(self.pyramid(levels[-1]))  # (B, D, h, w)
        heatmap: Tensor = self.classifier(self.dropout(features))  # (B, K, h, w)
        logits = resize(heatmap, size, align_corners=self.align_corners)  # (B, K, H, W)
        aux_logits = () if self.auxiliary is None else (self.auxiliary(levels, size),)
        return SegmentationOutput(logits, aux_logits, heatmap, features)
