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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseg.backbones import Backbone
from denseg.errors import ShapeError, UsageError
from denseg.layers import ConvBlock, UpConvBlock, init_conv
from denseg.models.interface import SegmentationModel
from denseg.ops import center_crop
from denseg.types import FeatureSpec, Geometry, SegmentationOutput

__all__ = ["NO_GRADIENT", "PaperUNet", "UNet"]

NO_GRADIENT: Mapping[str, str] = MappingProxyType({})

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
            in_channels: Image bands; with a backbone, those of the backbone.
            width: Multiplies all channels of the form without backbone.
            decoder_channels: Channels after each step up, coarsest first; 256 to 16 on a backbone, the encoder's own
                without.

        Raises:
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
        self.decoder = Decoder(backbone.specs, channels)
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


class PaperUNet(SegmentationModel):
    """U-Net as printed: valid convolutions, so the scores are 92 pixels smaller than the image on each side."""

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 1,
        width: float = 1.0,
        released: bool = False,
        dropout: float = 0.5,
    ) -> None:
        """Create both paths.

        Args:
            num_classes: Classes scored per pixel, K.
            in_channels: Image bands.
            width: Multiplies all channels; 1 is the paper's.
            released: The authors' released net instead of Figure 1: the last up-convolution keeps its channels, a
                ReLU follows each, and dropout acts on the level before the deepest too.
            dropout: Probability of dropping a value at the end of the contracting path in training.
        """
        super().__init__()
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.released = released
        self.dropout = dropout
        channels = [max(1, round(channel * width)) for channel in _PLAIN_CHANNELS]
        self.contracting = nn.ModuleList(
            _valid_convs(before, after) for before, after in zip([in_channels, *channels], channels, strict=False)
        )
        self.up = nn.ModuleList()
        self.expanding = nn.ModuleList()
        before = channels[-1]
        for after in channels[-2::-1]:
            grown = before if released and after == channels[0] else after
            self.up.append(nn.ConvTranspose2d(before, grown, 2, stride=2))
            self.expanding.append(_valid_convs(grown + after, after))
            before = after
        self.classifier = nn.Conv2d(before, num_classes, 1)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                init_conv(module)
        self.geometry = Geometry(margin=92, total_stride=16, size_step=16, size_offset=12, min_size=188)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel that has its full context inside the image.

        Args:
            images: ``(B, C, H, W)``, floating point, H and W of the form 16 k + 12, at least 188.

        Returns:
            ``(B, K, H - 184, W - 184)`` scores; ``heatmap`` is the same tensor.

        Raises:
            ShapeError: A size that some pool would round.
        """
        if any(side < 188 or side % 16 != 12 for side in images.shape[-2:]):
            raise ShapeError(
                "the paper's U-Net takes heights and widths 188, 204, 220, … (16 k + 12), got "
                f"{images.shape[-2]}x{images.shape[-1]}; predict by tiles, or use form='modern', which takes any size"
            )
        skips = []
        x = images
        for level, convs in enumerate(self.contracting):
            if level:
                x = F.max_pool2d(x, 2)  # (B, D, h / 2, w / 2)
            x = convs(x)  # (B, D, h - 4, w - 4)
            if level == len(self.contracting) - 1 or (self.released and level == len(self.contracting) - 2):
                x = F.dropout(x, self.dropout, self.training)
            skips.append(x)
        skips.pop()
        for up, convs in zip(self.up, self.expanding, strict=True):
            x = up(x)  # (B, D / 2, 2h, 2w)
            if self.released:
                x = F.relu(x)
            skip = center_crop(skips.pop(), (x.shape[-2], x.shape[-1]))
            x = convs(torch.cat([x, skip], dim=1))
        logits = self.classifier(x)  # (B, K, H - 184, W - 184)
        return SegmentationOutput(logits, (), logits, x)


def _valid_convs(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3), nn.ReLU(inplace=True), nn.Conv2d(after, after, 3), nn.ReLU(inplace=True)
    )


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
        self.strides: list[int] = []
        self.blocks = nn.ModuleList()
        before = specs[-1].channels
        stride = specs[-1].stride
        for after in channels:
            stride //= 2
            level = next((index for index, spec in enumerate(specs) if spec.stride == stride), None)
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
