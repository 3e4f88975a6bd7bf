# SPDX-License-Identifier: Apache-2.0
"""DeconvNet: VGG16 down to a vector, then the mirrored way up: unpooling by remembered switches and deconvolution.

Paper:
    H. Noh, S. Hong, B. Han, "Learning Deconvolution Network for Semantic Segmentation", ICCV 2015.
    https://arxiv.org/abs/1505.04366 - Section 3, Figure 2.
Reference code:
    https://github.com/HyeonwooNoh/DeconvNet (Caffe; not copied).
Departures from the paper:
    Any size goes in, padded with zeros to a multiple of 32; the paper scores windows of 224x224, as
    ``denseg.inference.proposals`` does. The modern form pads fc6 and its deconvolution, so that small images need not
    be 224x224, and is drawn as He et al. do.
Cost:
    251.8 million parameters, 206 of them in the two 7x7 layers; the way up costs as much as the way down.

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

from denseg.errors import UsageError
from denseg.layers import BatchNorm2d, init_conv
from denseg.models.interface import SegmentationModel
from denseg.models.transplant import load_vgg16
from denseg.models.trunk import Conv, scaled, vgg16_rows
from denseg.ops.unpool import max_pool_with_switches, unpool
from denseg.types import Geometry, SegmentationOutput

__all__ = ["NO_GRADIENT", "DeconvNet"]

NO_GRADIENT: Mapping[str, str] = MappingProxyType(
    {
        f"{layers}*.bias": "batch norm follows and takes any constant away"
        for layers in ("backbone.conv", "backbone.fc", "decoder.fc", "decoder.deconv")
    }
)

_STRIDE = 32
_WINDOW = 7  # positions of the last map that fc6 sees
_DECODER = ((5, (512, 512, 512)), (4, (512, 512, 256)), (3, (256, 256, 128)), (2, (128, 64)), (1, (64, 64)))


class DeconvNet(SegmentationModel):
    """Both forms: the paper's layers, and the same with a padded bottleneck."""

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        width: float = 1.0,
        bottleneck: Literal["same", "valid"] = "same",
    ) -> None:
        """Create encoder, decoder and classifier.

        Args:
            num_classes: Classes scored per pixel, K.
            in_channels: Image bands.
            width: Multiplies all channels.
            bottleneck: ``valid``: fc6 sees 7x7 positions and its deconvolution gives them back, as in the paper; maps
                of images below 224x224 are padded to that; ``same``: both layers pad.

        Raises:
            UsageError: ``width`` is not positive, or ``bottleneck`` neither of the two.
        """
        super().__init__()
        if width <= 0:
            raise UsageError(f"width must be above 0, got {width}")
        if bottleneck not in {"same", "valid"}:
            raise UsageError(f"bottleneck is 'same' or 'valid', got {bottleneck!r}")
        self.num_classes = num_classes
        self.in_channels = in_channels
        padding = 3 if bottleneck == "same" else 0
        self.backbone = _Encoder(in_channels, width, padding)
        self.decoder = _Decoder(width, padding)
        self.classifier = nn.Conv2d(scaled(64, width), num_classes, 1)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                _init(module, paper=bottleneck == "valid")
            elif isinstance(module, nn.BatchNorm2d) and bottleneck == "valid":
                nn.init.constant_(module.bias, 0.001)
                module.eps = 1e-9
        self.geometry = Geometry(score_stride=1, total_stride=_STRIDE)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel.

        Args:
            images: ``(B, C, H, W)``, floating point, any H and W >= 1.

        Returns:
            Scores of the image's size; ``heatmap`` is the same tensor.
        """
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % _STRIDE, 0, -height % _STRIDE))
        x, switches = self.backbone(padded)  # (B, D, h, w)
        features = self.decoder(x, switches)[..., :height, :width]  # (B, D, H, W)
        logits = self.classifier(features)  # (B, K, H, W)
        return SegmentationOutput(logits, (), logits, features)

    def load_imagenet(self) -> None:
        """Start the trunk from ImageNet weights of VGG16; batch norms and scores stay as they are."""
        load_vgg16(self.backbone)


class _Encoder(nn.Module):
    """VGG16 with batch norm and switches."""

    def __init__(self, in_channels: int, width: float, padding: int) -> None:
        super().__init__()
        self.stages: list[list[str]] = [[]]
        before = in_channels
        for row in vgg16_rows():
            if isinstance(row, Conv):
                after = scaled(row.channels, width)
                _add(self, row.name, nn.Conv2d(before, after, 3, padding=1), after)
                self.stages[-1].append(row.name)
                before = after
            else:
                self.stages.append([])
        wide = scaled(4096, width)
        _add(self, "fc6", nn.Conv2d(before, wide, 7, padding=padding), wide)
        _add(self, "fc7", nn.Conv2d(wide, wide, 1), wide)
        self.needed = _WINDOW - 2 * padding  # positions that fc6 needs

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        switches = []
        x = images
        for level, names in enumerate(self.stages):
            if level:
                x, where = max_pool_with_switches(x)  # (B, D, h / 2, w / 2)
                switches.append(where)
            x = _run(self, names, x)
        height, width = x.shape[-2:]
        right, bottom = (_at_least_none(self.needed - side) for side in (width, height))
        x = F.pad(x, (0, right, 0, bottom))
        return _run(self, ["fc6", "fc7"], x), switches


class _Decoder(nn.Module):
    """The mirror image of the encoder."""

    def __init__(self, width: float, padding: int) -> None:
        super().__init__()
        before, after = scaled(4096, width), scaled(512, width)
        _add(self, "fc6_deconv", nn.ConvTranspose2d(before, after, 7, padding=padding), after)
        self.stages: list[list[str]] = []
        before = after
        for stage, widths in _DECODER:
            self.stages.append([])
            for number, channels in enumerate(widths, start=1):
                name, after = f"deconv{stage}_{number}", scaled(channels, width)
                _add(self, name, nn.ConvTranspose2d(before, after, 3, padding=1), after)
                self.stages[-1].append(name)
                before = after

    def forward(self, x: Tensor, switches: list[Tensor]) -> Tensor:
        height, width = switches[-1].shape[-2:]
        x = _run(self, ["fc6_deconv"], x)[..., :height, :width]
        for names, where in zip(self.stages, reversed(switches), strict=True):
            x = _run(self, names, unpool(x, where))  # (B, D, 2h, 2w)
        return x


def _at_least_none(missing: int) -> int:
    """Positions to add, at least 0; stays a symbol where the export has one."""
    at_least: int = torch.sym_max(missing, 0)  # type: ignore[assignment]
    return at_least


def _add(parent: nn.Module, name: str, conv: nn.Module, channels: int) -> None:
    parent.add_module(name, conv)
    parent.add_module(f"norm_{name}", BatchNorm2d(channels))


def _run(parent: nn.Module, names: list[str], x: Tensor) -> Tensor:
    for name in names:
        x = F.relu(parent.get_submodule(f"norm_{name}")(parent.get_submodule(name)(x)), inplace=True)
    return x


def _init(conv: nn.Conv2d | nn.ConvTranspose2d, *, paper: bool) -> None:
    init_conv(conv)
    if paper:
        nn.init.normal_(conv.weight, std=0.01)
