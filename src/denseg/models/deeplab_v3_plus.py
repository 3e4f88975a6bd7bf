# SPDX-License-Identifier: Apache-2.0
"""DeepLab v3+: atrous spatial pyramid pooling for context, a small decoder for boundaries.

Paper:
    L.-C. Chen, Y. Zhu, G. Papandreou, F. Schroff, H. Adam, "Encoder-Decoder with Atrous Separable Convolution for
    Semantic Image Segmentation", ECCV 2018. https://arxiv.org/abs/1802.02611 - Section 3, Figure 2.
Reference code:
    https://github.com/tensorflow/models/tree/master/research/deeplab (not copied); segmentation_models_pytorch
    ``DeepLabV3Plus``, to which ``layout="smp"`` makes this equal with copied weights.
Departures from the paper:
    Interpolation does not align corners; batch norm of the head keeps torch's momentum of 0.1.
    The low-level features are the backbone's level of stride 4: on Xception before the ReLU, as in the released code;
    on others as the library gives it, mostly after the ReLU.
Cost:
    The backbone dominates; at output stride 8 it takes nearly four times that of 16.

Shape letters: B batch, C image bands, K classes, D decoder channels, H and W image height and width, h and w feature
height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from denseg.errors import UsageError
from denseg.layers import ASPP, ConvBlock, SeparableConv, init_classifier
from denseg.layers.separable_conv import spatial_conv
from denseg.models.deeplab_v3 import pyramid_rates
from denseg.models.interface import SegmentationModel
from denseg.ops import resize
from denseg.types import Geometry, SegmentationOutput

if TYPE_CHECKING:
    from denseg.backbones import Backbone

__all__ = ["NO_GRADIENT", "DeepLabV3Plus"]

NO_GRADIENT: Mapping[str, str] = MappingProxyType({})


class DeepLabV3Plus(SegmentationModel):
    """DeepLab v3+ on any backbone that has a level of stride 4."""

    def __init__(  # noqa: PLR0913 - the switches of the paper's ablations
        self,
        num_classes: int,
        *,
        backbone: Backbone,
        conv: str = "separable",
        separable: bool | None = None,
        groups: int = 4,
        dilations: Sequence[int] | None = None,
        image_pooling: bool = True,
        image_pooling_size: int | None = None,
        decoder: bool = True,
        low_level_channels: int = 48,
        decoder_channels: int | None = None,
        decoder_convs: int | None = None,
        decoder_kernel: int = 3,
        channels: int = 256,
        layout: str = "paper",
        dropout: float | None = None,
    ) -> None:
        """Create pyramid pooling, decoder and classifier.

        Args:
            num_classes: Classes scored per pixel, K.
            backbone: The backbone.
            conv: Form of the 3x3 convolutions in pyramid and decoder: ``separable``, ``full`` or ``grouped``.
            separable: True is ``conv="separable"``, False ``conv="full"``; ``conv`` counts if ``None``.
            groups: Groups of the grouped form.
            dilations: Rates of the pyramid; 6, 12, 18 at output stride 16 and in proportion at others if ``None``.
            image_pooling: Whether the mean of the map is a branch of the pyramid.
            image_pooling_size: Side of a fixed window of that mean, in positions; the whole map if ``None``.
            decoder: Whether low-level features refine the scores; else the pyramid's output is classified.
            low_level_channels: Channels that the low-level features are reduced to (Table 1: 8 to 64).
            decoder_channels: Channels of the decoder's convolutions, D (Table 2: 128 or 256); ``channels`` if ``None``.
            decoder_convs: How many there are (Table 2: 1 to 3); 2, or 1 in the layout ``smp``, if ``None``.
            decoder_kernel: Their side (Table 2: 3 or 1).
            channels: Channels of the pyramid.
            layout: ``paper``, or ``smp`` for segmentation_models_pytorch's: one more separable convolution after the
                pyramid, one in the decoder, no norm inside separable convolutions, rates 12, 24, 36 at any output
                stride, aligned corners.
            dropout: Probability of dropping a value of the pyramid's output in training; 0.1, in the layout ``smp``
                0.5, if ``None``.

        Raises:
            UsageError: ``layout`` is unknown, or a number of the decoder is out of range.
        """
        super().__init__()
        if layout not in {"paper", "smp"}:
            raise UsageError(f"layout is 'paper' or 'smp', got {layout!r}")
        smp = layout == "smp"
        decoder_convs = (1 if smp else 2) if decoder_convs is None else decoder_convs
        if decoder_convs < 1 or decoder_kernel < 1 or decoder_kernel % 2 == 0:
            raise UsageError(
                "the decoder takes at least 1 convolution with an odd kernel, or decoder=False; got "
                f"decoder_convs={decoder_convs} and decoder_kernel={decoder_kernel}"
            )
        if separable is not None:
            conv = "separable" if separable else "full"
        self.num_classes = num_classes
        self.in_channels = backbone.in_channels
        self.backbone = backbone
        self.align_corners = smp
        stride = backbone.output_stride
        if dilations is None:
            dilations = (12, 24, 36) if smp else pyramid_rates(stride)
        self.aspp = ASPP(
            backbone.specs[-1].channels,
            dilations=dilations,
            out_channels=channels,
            conv=conv,
            groups=groups,
            norm_between=not smp,
            image_pooling=image_pooling,
            image_pooling_size=image_pooling_size,
            dropout=(0.5 if smp else 0.1) if dropout is None else dropout,
        )
        self.expansion = SeparableConv(channels, norm_between=False) if smp else nn.Identity()
        self.decoder: Decoder | None = None
        width = channels
        if decoder:
            self.low_level = backbone.require_level(4, by="the decoder of deeplab_v3_plus")
            width = channels if decoder_channels is None else decoder_channels
            before = [channels + low_level_channels, *[width] * (decoder_convs - 1)]
            convs = [
                spatial_conv(
                    wide,
                    width,
                    conv="separable" if smp else conv,
                    kernel_size=decoder_kernel,
                    groups=groups,
                    norm_between=not smp,
                )
                for wide in before
            ]
            low_level = backbone.specs[self.low_level].channels
            self.decoder = Decoder(low_level, low_level_channels, convs, align_corners=smp)
        self.classifier = init_classifier(nn.Conv2d(width, num_classes, 1))
        self.geometry = Geometry(score_stride=4 if decoder else stride, total_stride=stride)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel.

        Args:
            images: ``(B, C, H, W)``, floating point, any H and W >= 1.

        Returns:
            Scores of the image's size; ``features`` has D channels at stride 4, without decoder at the backbone's
            output stride.
        """
        levels = self.backbone(images)
        features: Tensor = self.expansion(self.aspp(levels[-1]))  # (B, D, h, w)
        if self.decoder is not None:
            features = self.decoder(features, levels[self.low_level])  # (B, D, H / 4, W / 4)
        heatmap: Tensor = self.classifier(features)  # (B, K, H / 4, W / 4)
        logits = resize(heatmap, (images.shape[-2], images.shape[-1]), align_corners=self.align_corners)  # (B, K, H, W)
        return SegmentationOutput(logits, (), heatmap, features)


class Decoder(nn.Module):
    """Reduce the low-level features, concatenate them with the grown context, refine by convolutions."""

    def __init__(self, low_level: int, reduced: int, convs: Sequence[nn.Module], *, align_corners: bool) -> None:
        super().__init__()
        self.reduction = ConvBlock(low_level, reduced, kernel_size=1)
        self.refinement = nn.Sequential(*convs)
        self.align_corners = align_corners

    def forward(self, context: Tensor, low_level: Tensor) -> Tensor:
        detail = self.reduction(low_level)  # (B, 48, h, w)
        context = resize(
            context, (detail.shape[-2], detail.shape[-1]), align_corners=self.align_corners
        )  # (B, D, h, w)
        refined: Tensor = self.refinement(torch.cat([context, detail], dim=1))  # (B, D, h, w)
        return refined
