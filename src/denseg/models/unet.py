# SPDX-License-Identifier: Apache-2.0
"""U-Net: a contracting path, an expanding path, and skips that carry detail from one to the other.

Paper:
    O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
    MICCAI 2015. https://arxiv.org/abs/1505.04597 - Section 2, Figure 1.
Reference code:
    https://lmb.informatik.uni-freiburg.de/people/ronneber/u-net (Caffe; not copied).
Departures from the paper:
    The modern form pads its convolutions, so that scores have the image's size; batch norm follows each convolution;
    maps grow by nearest-neighbour interpolation; any backbone may be the contracting path.
Cost:
    The two convolutions at full size dominate; ``width`` and ``decoder_channels`` are the handles.

Shape letters: B batch, C image bands, K classes, D channels, H and W image height and width, h and w feature height
and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseg.backbones import Backbone
from denseg.errors import UsageError
from denseg.layers import ConvBlock
from denseg.models.interface import SegmentationModel
from denseg.ops import resize
from denseg.types import FeatureSpec, Geometry, SegmentationOutput

__all__ = ["NO_GRADIENT", "UNet"]

NO_GRADIENT: MappingProxyType[str, str] = MappingProxyType({})

_PLAIN_CHANNELS = (64, 128, 256, 512, 1024)  # Figure 1
_DECODER_CHANNELS = (256, 128, 64, 32, 16)  # at stride 16, 8, 4, 2, 1


class UNet(SegmentationModel):
    """U-Net of the modern form, on its own encoder or on a backbone."""

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Backbone | None = None,
        in_channels: int = 3,
        width: float = 1.0,
        decoder_channels: Sequence[int] | None = None,
    ) -> None:
        """Create encoder, decoder and classifier.

        Args:
            num_classes: Classes scored per pixel, K.
            backbone: The contracting path; the paper's five levels of two convolutions if ``None``.
            in_channels: Image bands.
            width: Multiplies all channels of the form without backbone.
            decoder_channels: Channels after each step up, coarsest first; 256 to 16 on a backbone, the encoder's own
                without.

        Raises:
            UsageError: ``width`` with a backbone, or not one number of ``decoder_channels`` per step.
        """
        super().__init__()
        if backbone is not None and width != 1.0:
            raise UsageError("width scales the U-Net without backbone; with one, give decoder_channels")
        self.num_classes = num_classes
        self.in_channels = in_channels
        if backbone is None:
            backbone = PlainEncoder(in_channels, width=width)
            channels = [spec.channels for spec in backbone.specs[-2::-1]]
        else:
            steps = backbone.output_stride.bit_length() - 1
            channels = list(_DECODER_CHANNELS[-steps:])
        if decoder_channels is not None:
            if len(decoder_channels) != len(channels):
                raise UsageError(
                    f"decoder_channels needs {len(channels)} numbers here, one per step up, "
                    f"got {list(decoder_channels)}"
                )
            channels = list(decoder_channels)
        self.backbone = backbone
        self.decoder = Decoder(backbone.specs, channels)
        self.classifier = nn.Conv2d(channels[-1], num_classes, 1)
        self.geometry = Geometry(score_stride=1, total_stride=backbone.output_stride)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel.

        Args:
            images: ``(B, C, H, W)``, floating point, any H and W >= 1.

        Returns:
            Scores of the image's size; ``heatmap`` is the same tensor.
        """
        features = self.decoder(self.backbone(images))  # (B, D, H, W)
        logits = self.classifier(features)  # (B, K, H, W)
        logits = resize(logits, (images.shape[-2], images.shape[-1]))
        return SegmentationOutput(logits, (), logits, features)


class PlainEncoder(Backbone):
    """The paper's contracting path with padded convolutions and batch norm; pools round sizes up."""

    def __init__(self, in_channels: int, *, width: float) -> None:
        super().__init__()
        self.in_channels = in_channels
        channels = [max(1, round(channel * width)) for channel in _PLAIN_CHANNELS]
        self.specs = tuple(FeatureSpec(channel, 2**level) for level, channel in enumerate(channels))
        self.stages = nn.ModuleList(
            nn.Sequential(ConvBlock(before, after), ConvBlock(after, after))
            for before, after in zip([in_channels, *channels], channels, strict=False)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = []
        x = images
        for level, stage in enumerate(self.stages):
            if level:
                x = F.max_pool2d(x, 2, ceil_mode=True)  # (B, D, ceil(h / 2), ceil(w / 2))
            x = stage(x)
            features.append(x)
        return tuple(features)


class Decoder(nn.Module):
    """From the deepest level up to stride 1: nearest x2, concatenate the skip, two convolutions."""

    def __init__(self, specs: Sequence[FeatureSpec], channels: Sequence[int]) -> None:
        super().__init__()
        self.levels: list[int | None] = []
        self.blocks = nn.ModuleList()
        before = specs[-1].channels
        stride = specs[-1].stride
        for after in channels:
            stride //= 2
            level = next((index for index, spec in enumerate(specs) if spec.stride == stride), None)
            skip = 0 if level is None else specs[level].channels
            self.levels.append(level)
            self.blocks.append(nn.Sequential(ConvBlock(before + skip, after), ConvBlock(after, after)))
            before = after

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        x = features[-1]
        for level, block in zip(self.levels, self.blocks, strict=True):
            if level is None:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")  # (B, D, 2h, 2w)
            else:
                skip = features[level]
                x = F.interpolate(x, size=skip.shape[-2:], mode="nearest")
                x = torch.cat([x, skip], dim=1)
            x = block(x)
        return x
