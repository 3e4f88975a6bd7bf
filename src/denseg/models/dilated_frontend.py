# SPDX-License-Identifier: Apache-2.0
"""Dilated front end: VGG16 that keeps a stride of 8, because the last two pools gave way to dilated convolutions.

Paper:
    F. Yu, V. Koltun, "Multi-Scale Context Aggregation by Dilated Convolutions", ICLR 2016.
    https://arxiv.org/abs/1511.07122 - Section 4.
Reference code:
    https://github.com/fyu/dilation (not copied).
Departures from the paper:
    Scores grow by bilinear interpolation between the centres of what they see; the released script interpolates
    probabilities from the corner, half a position off. The modern form pads, so that any size goes in and the same
    comes out, and takes any backbone.
Cost:
    fc6 sees 7x7 positions of 512 channels at stride 8: most of the multiply-adds, and 103 of 134 million parameters.

Shape letters: B batch, C image bands, K classes, D channels, H and W image height and width, h and w feature height
and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from denseg.errors import ShapeError, UsageError
from denseg.models.interface import SegmentationModel
from denseg.models.transplant import load_vgg16
from denseg.models.trunk import Conv, Row, Trunk, vgg16_rows
from denseg.ops import resize
from denseg.types import Geometry, SegmentationOutput

if TYPE_CHECKING:
    from denseg.backbones import Backbone

__all__ = [
    "MARGIN",
    "NO_GRADIENT",
    "SMALLEST",
    "DilatedFrontend",
    "PaperDilatedFrontend",
    "check_size",
    "create_score",
    "deepest_map",
    "dilated_vgg16",
]

NO_GRADIENT: Mapping[str, str] = MappingProxyType({})

MARGIN = 186
"""Pixels on each side that the valid front end gives no scores for."""
SMALLEST = 380
"""Side of what one score sees, and so of the smallest image."""
_DROPOUT = 0.5


class DilatedFrontend(SegmentationModel):
    """The front end with padding; on another backbone, that backbone dilated to stride 8 and one classifier."""

    def __init__(
        self, num_classes: int, *, backbone: Backbone | None = None, in_channels: int = 3, width: float = 1.0
    ) -> None:
        """Create trunk and classifier.

        Args:
            num_classes: Classes scored per pixel, K.
            backbone: A backbone of output stride 8; the paper's VGG16 if ``None``.
            in_channels: Image bands; with a backbone, those of the backbone.
            width: Multiplies the channels of VGG16.

        Raises:
            UsageError: ``width`` is not positive, or given with a backbone.
        """
        super().__init__()
        self.num_classes = num_classes
        if backbone is not None and width != 1.0:
            raise UsageError("width scales the front end's own VGG16; a backbone has its own channels")
        self.in_channels = in_channels if backbone is None else backbone.in_channels
        self.backbone = dilated_vgg16(in_channels, width=width, padded=True) if backbone is None else backbone
        self.score = create_score(self.backbone, num_classes)
        stride = 8 if backbone is None else backbone.output_stride
        self.geometry = Geometry(score_stride=stride, total_stride=stride)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel.

        Args:
            images: ``(B, C, H, W)``, floating point, any H and W >= 1.

        Returns:
            Scores of the image's size.
        """
        features = deepest_map(self.backbone(images))  # (B, D, h, w)
        heatmap = self.score(F.dropout(features, _DROPOUT, self.training and not isinstance(self.backbone, Trunk)))
        logits = resize(heatmap, (images.shape[-2], images.shape[-1]))  # (B, K, H, W)
        return SegmentationOutput(logits, (), heatmap, features)

    def load_imagenet(self) -> None:
        """Start the trunk from ImageNet weights of VGG16; batch norms and scores stay as they are."""
        load_vgg16(self.backbone)


class PaperDilatedFrontend(SegmentationModel):
    """The front end as released: valid convolutions, 900x900 in, 66x66 scores.

    Attributes:
        receptive_field: Side of what one score sees, in pixels.
    """

    def __init__(self, num_classes: int, *, in_channels: int = 3, width: float = 1.0) -> None:
        """Create trunk and classifier.

        Args:
            num_classes: Classes scored per pixel, K.
            in_channels: Image bands.
            width: Multiplies all channels.
        """
        super().__init__()
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.backbone = dilated_vgg16(in_channels, width=width, padded=False)
        self.receptive_field = int(self.backbone.places["fc7"].field)
        self.score = create_score(self.backbone, num_classes)
        self.geometry = Geometry(
            margin=MARGIN, score_stride=8, total_stride=8, size_step=8, size_offset=4, min_size=SMALLEST, seam=4
        )

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel that has context on all sides.

        Args:
            images: ``(B, C, H, W)``, floating point, H and W of the form 8 k + 4, at least 380.

        Returns:
            ``(B, K, H - 372, W - 372)`` scores; ``heatmap`` is an eighth of it.
        """
        size = check_size(images)
        features = deepest_map(self.backbone(images))  # (B, D, h, w)
        heatmap: Tensor = self.score(features)  # (B, K, h, w)
        return SegmentationOutput(resize(heatmap, size), (), heatmap, features)

    def load_imagenet(self) -> None:
        """Start the trunk from ImageNet weights of VGG16; batch norms and scores stay as they are."""
        load_vgg16(self.backbone)


def dilated_vgg16(in_channels: int, *, width: float, padded: bool) -> Trunk:
    """Create VGG16 without its last two pools, with dilation 2 after the fourth and 4 after the fifth.

    Args:
        in_channels: Image bands.
        width: Multiplies all channels.
        padded: Whether convolutions pad so that maps keep their size.

    Returns:
        The trunk, to fc7.

    Raises:
        UsageError: ``width`` is not positive.
    """
    if width <= 0:
        raise UsageError(f"width must be above 0, got {width}")
    rows: list[Row] = []
    for row in vgg16_rows(first_padding=int(padded), padding=int(padded)):
        if row.name in {"pool4", "pool5"}:
            continue
        if isinstance(row, Conv) and row.name.startswith("conv5"):
            row = row._replace(dilation=2, padding=2 * int(padded))
        rows.append(row)
    rows += [
        Conv("fc6", 4096, 7, padding=12 * int(padded), dilation=4, dropout=True),
        Conv("fc7", 4096, 1, dropout=True),
    ]
    return Trunk(rows, in_channels=in_channels, width=width, dropout=_DROPOUT)


def create_score(trunk: Trunk | Backbone, num_classes: int) -> nn.Conv2d:
    """Create the classifier as the released front end draws it: a Gaussian of 0.001, no bias at first.

    Args:
        trunk: What it stands on.
        num_classes: K.

    Returns:
        A 1x1 convolution.
    """
    channels = trunk.channels["fc7"] if isinstance(trunk, Trunk) else trunk.specs[-1].channels
    score = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(score.weight, std=0.001)
    if score.bias is not None:
        nn.init.zeros_(score.bias)
    return score


def deepest_map(maps: Mapping[str, Tensor] | tuple[Tensor, ...]) -> Tensor:
    """Pick the last map of a trunk or a backbone.

    Args:
        maps: What it returned.

    Returns:
        ``(B, D, h, w)``.
    """
    return maps[-1] if isinstance(maps, tuple) else maps["fc7"]


def check_size(images: Tensor) -> tuple[int, int]:
    """Refuse images that a pool of the valid front end would round.

    Args:
        images: ``(B, C, H, W)``.

    Returns:
        ``(H - 372, W - 372)``, the size of the scores.

    Raises:
        ShapeError: A side is not of the form 8 k + 4, or below 380.
    """
    height, width = images.shape[-2:]
    if any(side < SMALLEST or side % 8 != 4 for side in (height, width)):
        raise ShapeError(
            f"the paper's front end takes heights and widths 380, 388, 396, … (8 k + 4), got {height}x{width}; predict "
            "by tiles, or use form='modern', which takes any size"
        )
    return height - 2 * MARGIN, width - 2 * MARGIN
