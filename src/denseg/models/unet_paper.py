# SPDX-License-Identifier: Apache-2.0
"""U-Net as printed: valid convolutions, and the ways to give scores of the image's size all the same.

Paper:
    O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
    MICCAI 2015. https://arxiv.org/abs/1505.04597 - Section 2, Figures 1 and 2.
Reference code:
    https://lmb.informatik.uni-freiburg.de/people/ronneber/u-net (Caffe; not copied).
Departures from the paper:
    None with ``keep_size="none"``; ``overlap_tile`` is the paper's own answer, done inside the network; the other ways
    to keep the size are what came after it.
Cost:
    31 million parameters; 92 pixels on each side are computed and dropped.

Shape letters: B batch, C image bands, K classes, D channels, H and W image height and width, h and w feature height
and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseg.errors import ShapeError, UsageError
from denseg.layers import init_conv
from denseg.models.interface import SegmentationModel
from denseg.models.unet import PLAIN_CHANNELS
from denseg.ops import center_crop, reflect_pad, resize
from denseg.types import Geometry, SegmentationOutput

__all__ = ["NO_GRADIENT", "PaperUNet"]

NO_GRADIENT: Mapping[str, str] = MappingProxyType({})

_WAYS = ("none", "interpolate", "transposed", "same", "overlap_tile")


class PaperUNet(SegmentationModel):
    """U-Net of Figure 1: the scores are 92 pixels smaller than the image on each side, unless ``keep_size`` says so."""

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 1,
        width: float = 1.0,
        released: bool = False,
        dropout: float = 0.5,
        keep_size: Literal["none", "interpolate", "transposed", "same", "overlap_tile"] = "none",
        padding: Literal["zero", "mirror"] = "zero",
        levels: int = 5,
    ) -> None:
        """Create both paths.

        Args:
            num_classes: Classes scored per pixel, K.
            in_channels: Image bands.
            width: Multiplies all channels; 1 is the paper's.
            released: The authors' released net instead of Figure 1: the last up-convolution keeps its channels, a
                ReLU follows each, and dropout acts on the level before the deepest too.
            dropout: Probability of dropping a value at the end of the contracting path in training.
            keep_size: How scores get the image's size. ``none``: they don't. ``interpolate``: each grown map is
                stretched to its skip's size, the last one to the image's. ``transposed``: the way up convolves
                transposed, which gives back what the way down took. ``same``: every convolution pads.
                ``overlap_tile``: the image is mirrored around by what the convolutions take.
            padding: What ``same`` pads with: zeros, or the map mirrored.
            levels: From the finest to the deepest; the paper has 5.

        Raises:
            UsageError: An option is unknown or out of range.
        """
        super().__init__()
        if keep_size not in _WAYS:
            raise UsageError(f"keep_size is one of {', '.join(_WAYS)}, got {keep_size!r}")
        if padding not in {"zero", "mirror"}:
            raise UsageError(f"padding is 'zero' or 'mirror', got {padding!r}")
        if not 1 <= levels <= len(PLAIN_CHANNELS):
            raise UsageError(f"levels is 1 to {len(PLAIN_CHANNELS)}, got {levels}")
        if width <= 0:
            raise UsageError(f"width must be above 0, got {width}")
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.released = released
        self.dropout = dropout
        self.keep_size = keep_size
        mode = padding if keep_size == "same" else None
        grows = keep_size == "transposed"
        channels = [max(1, round(channel * width)) for channel in PLAIN_CHANNELS[:levels]]
        self.contracting = nn.ModuleList(
            _convs(before, after, mode, (False, grows and level == levels - 1))
            for level, (before, after) in enumerate(zip([in_channels, *channels], channels, strict=False))
        )
        self.up = nn.ModuleList()
        self.expanding = nn.ModuleList()
        before = channels[-1]
        for after in channels[-2::-1]:
            grown = before if released and after == channels[0] else after
            self.up.append(nn.ConvTranspose2d(before, grown, 2, stride=2))
            self.expanding.append(_convs(grown + after, after, mode, (grows, grows)))
            before = after
        self.classifier = nn.Conv2d(before, num_classes, 1)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                init_conv(module)
        step = 1 << (levels - 1)
        self._margin = 6 * step - 4 if keep_size in {"none", "overlap_tile"} else 0
        self._step = step
        self._offset = 0 if keep_size == "same" else -4 % step
        self._smallest = {"same": 2 * step, "transposed": 7 * step - 4, "interpolate": 9 * step - 4}.get(
            keep_size, 12 * step - 4
        )
        self.geometry = Geometry(total_stride=step)
        if keep_size == "none":
            self.geometry = Geometry(self._margin, 1, step, step, self._offset, self._smallest)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel; without ``keep_size``, those that have their full context inside the image.

        Args:
            images: ``(B, C, H, W)``, floating point; without ``keep_size`` H and W of the form 16 k + 12, at least 188.

        Returns:
            ``(B, K, H - 184, W - 184)`` scores, or ``(B, K, H, W)`` with ``keep_size``; ``heatmap`` is the same tensor.

        Raises:
            ShapeError: Without ``keep_size``, a size that some pool would round.
        """
        height, width = images.shape[-2:]
        if self.keep_size == "none":
            if any(side < self._smallest or side % self._step != self._offset for side in (height, width)):
                sizes = ", ".join(str(self._smallest + n * self._step) for n in range(3))
                raise ShapeError(
                    f"the paper's U-Net takes heights and widths {sizes}, … ({self._step} k + {self._offset}), got "
                    f"{height}x{width}; predict by tiles, or use form='modern', which takes any size"
                )
            return self._output(self._features(images))
        before = self._margin
        bottom, right = (self._fit(side + 2 * before) - side - before for side in (height, width))
        features = self._features(reflect_pad(images, (before, right, before, bottom)))  # (B, D, h, w)
        if self.keep_size == "interpolate":
            features = resize(features, (height + bottom, width + right))
        return self._output(features[..., :height, :width])

    def _output(self, features: Tensor) -> SegmentationOutput:
        logits = self.classifier(features)
        return SegmentationOutput(logits, (), logits, features)

    def _fit(self, side: int) -> int:
        """Round a side up to the next one that no pool rounds."""
        side = max(side, self._smallest)
        return side + (self._offset - side) % self._step

    def _features(self, images: Tensor) -> Tensor:
        skips = []
        x = images
        deepest = len(self.contracting) - 1
        for level, convs in enumerate(self.contracting):
            if level:
                x = F.max_pool2d(x, 2)  # (B, D, h / 2, w / 2)
            x = convs(x)  # (B, D, h - 4, w - 4)
            if level == deepest or (self.released and level == deepest - 1):
                x = F.dropout(x, self.dropout, self.training)
            skips.append(x)
        skips.pop()
        for up, convs in zip(self.up, self.expanding, strict=True):
            x = up(x)  # (B, D / 2, 2h, 2w)
            if self.released:
                x = F.relu(x)
            skip = skips.pop()
            if self.keep_size == "interpolate":
                x = resize(x, (skip.shape[-2], skip.shape[-1]))
            skip = center_crop(skip, (x.shape[-2], x.shape[-1]))
            x = convs(torch.cat([x, skip], dim=1))
        return x


def _convs(before: int, after: int, padding: str | None, transposed: tuple[bool, bool]) -> nn.Sequential:
    """Two 3x3 convolutions with ReLU: valid, or padded, or transposed, which grows a map by what a valid one takes."""
    layers: list[nn.Module] = []
    for channels, grows in zip((before, after), transposed, strict=True):
        if grows:
            layers.append(nn.ConvTranspose2d(channels, after, 3))
        elif padding is None:
            layers.append(nn.Conv2d(channels, after, 3))
        else:
            layers.append(
                nn.Conv2d(channels, after, 3, padding=1, padding_mode="zeros" if padding == "zero" else "reflect")
            )
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
