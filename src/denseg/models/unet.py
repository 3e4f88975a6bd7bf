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

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch.nn.functional as F
from torch import Tensor, nn

from denseg.backbones import Backbone
from denseg.errors import UnsupportedError, UsageError
from denseg.layers import ConvBlock, UpConvBlock, init_conv
from denseg.models.interface import SegmentationModel
from denseg.types import FeatureSpec, Geometry, SegmentationOutput

__all__ = ["NO_GRADIENT", "PLAIN_CHANNELS", "UNet"]

NO_GRADIENT: Mapping[str, str] = MappingProxyType({})

PLAIN_CHANNELS = (64, 128, 256, 512, 1024)  # Figure 1
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
        skips: Sequence[int] | None = None,
    ) -> None:
        """Create encoder, decoder and classifier.

        Args:
            num_classes: Classes scored per pixel, K.
            backbone: The contracting path; the paper's five levels of two convolutions if ``None``.
            in_channels: Image bands; with a backbone, those of the backbone.
            width: Multiplies all channels of the form without backbone.
            decoder_channels: Channels after each step up, coarsest first; 256 to 16 on a backbone, the encoder's own
                without.
            skips: Strides of the levels that are carried over; all that the backbone has if ``None``.

        Raises:
            UnsupportedError: The backbone lacks the level of a skip.
            UsageError: ``width`` with a backbone or not positive, or not one number of ``decoder_channels`` per step.
        """
        super().__init__()
        if width <= 0:
            raise UsageError(f"width must be above 0, got {width}")
        if backbone is not None and width != 1.0:
            raise UsageError("width scales the U-Net without backbone; with one, give decoder_channels")
        self.num_classes = num_classes
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
        self.in_channels = backbone.in_channels
        self.backbone = backbone
        known = [spec.stride for spec in backbone.specs if spec.stride < backbone.output_stride]
        wanted = known if skips is None else list(skips)
        if not set(wanted) <= set(known):
            raise UnsupportedError(
                f"a U-Net on this backbone can skip from strides {', '.join(map(str, known))}, got {wanted}"
            )
        self.decoder = Decoder(backbone.specs, channels, wanted)
        self.classifier = nn.Conv2d(channels[-1], num_classes, 1)
        init_conv(self.classifier)  # Section 3: sqrt(2 / N); smaller weights on so few channels stall the start
        self.geometry = Geometry(score_stride=1, total_stride=backbone.output_stride)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel.

        Args:
            images: ``(B, C, H, W)``, floating point, any H and W >= 1.

        Returns:
            Scores of the image's size; ``heatmap`` is the same tensor.
        """
        size = (images.shape[-2], images.shape[-1])
        features = self.decoder(self.backbone(images), size)  # (B, D, H, W)
        logits = self.classifier(features)  # (B, K, H, W)
        return SegmentationOutput(logits, (), logits, features)


class PlainEncoder(Backbone):
    """The paper's contracting path with padded convolutions and batch norm; pools round sizes up."""

    def __init__(self, in_channels: int, *, width: float) -> None:
        super().__init__()
        self.in_channels = in_channels
        channels = [max(1, round(channel * width)) for channel in PLAIN_CHANNELS]
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

    def __init__(self, specs: Sequence[FeatureSpec], channels: Sequence[int], skips: Sequence[int]) -> None:
        super().__init__()
        self.levels: list[int | None] = []
        self.strides: list[int] = []
        self.blocks = nn.ModuleList()
        before = specs[-1].channels
        stride = specs[-1].stride
        for after in channels:
            stride //= 2
            level = next((index for index, spec in enumerate(specs) if spec.stride == stride in skips), None)
            skip = 0 if level is None else specs[level].channels
            self.levels.append(level)
            self.strides.append(stride)
            self.blocks.append(DecoderBlock(before, skip, after))
            before = after

    def forward(self, features: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        x = features[-1]
        for level, stride, block in zip(self.levels, self.strides, self.blocks, strict=True):
            if level is None:
                x = block(x, None, (-(-size[0] // stride), -(-size[1] // stride)))
            else:
                x = block(x, features[level], (features[level].shape[-2], features[level].shape[-1]))
        return x


class DecoderBlock(nn.Module):
    """One step up: ``grow`` merges the grown map and the skip, ``refine`` convolves once more."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.grow = UpConvBlock(in_channels, skip_channels, out_channels)
        self.refine = ConvBlock(out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:
        merged: Tensor = self.grow(x, skip, size)  # (B, D, h, w)
        refined: Tensor = self.refine(merged)  # (B, D, h, w)
        return refined
