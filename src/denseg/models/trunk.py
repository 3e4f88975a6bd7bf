# SPDX-License-Identifier: Apache-2.0
"""The classifiers on which the early networks stand, made convolutional: VGG16, CaffeNet and GoogLeNet in Caffe's form.

Layers keep their Caffe names, so that released weights find their place by name (a slash becomes a dot). Every network
is a table of layers; the same table tells where each map lies in the image.

Shape letters: B batch, C image bands, D channels, H and W image height and width, h and w feature height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseg.layers import init_conv
from denseg.models.coordinates import Place

__all__ = ["CAFFENET", "GOOGLENET", "VGG16", "Conv", "Inception", "Norm", "Pool", "Row", "Trunk", "vgg16_rows"]


class Conv(NamedTuple):
    """A convolution, a ReLU, and dropout where asked."""

    name: str
    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    dropout: bool = False


class Pool(NamedTuple):
    """A maximum pool that rounds sizes up."""

    name: str
    kernel: int = 2
    stride: int = 2


class Norm(NamedTuple):
    """Local response normalisation over 5 channels (alpha 1e-4, beta 0.75)."""

    name: str


class Inception(NamedTuple):
    """Four branches side by side: 1x1; 1x1 then 3x3; 1x1 then 5x5; pool then 1x1."""

    name: str
    one: int
    three_reduce: int
    three: int
    five_reduce: int
    five: int
    pool: int


Row = Conv | Pool | Norm | Inception


def vgg16_rows(*, first_padding: int = 1, padding: int = 1) -> tuple[Row, ...]:
    """Give VGG16 up to its fifth pool.

    Args:
        first_padding: Of the first convolution.
        padding: Of the others.

    Returns:
        The table.
    """
    rows: list[Row] = []
    for stage, (count, channels) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), start=1):
        rows += [
            Conv(f"conv{stage}_{n}", channels, 3, padding=first_padding if (stage, n) == (1, 1) else padding)
            for n in range(1, count + 1)
        ]
        rows.append(Pool(f"pool{stage}"))
    return tuple(rows)


VGG16: tuple[Row, ...] = (
    *vgg16_rows(),
    Conv("fc6", 4096, 7, dropout=True),
    Conv("fc7", 4096, 1, dropout=True),
)
CAFFENET: tuple[Row, ...] = (
    Conv("conv1", 96, 11, stride=4),
    Pool("pool1", 3),
    Norm("norm1"),
    Conv("conv2", 256, 5, padding=2, groups=2),
    Pool("pool2", 3),
    Norm("norm2"),
    Conv("conv3", 384, 3, padding=1),
    Conv("conv4", 384, 3, padding=1, groups=2),
    Conv("conv5", 256, 3, padding=1, groups=2),
    Pool("pool5", 3),
    Conv("fc6", 4096, 6, dropout=True),
    Conv("fc7", 4096, 1, dropout=True),
)
GOOGLENET: tuple[Row, ...] = (
    Conv("conv1/7x7_s2", 64, 7, stride=2, padding=3),
    Pool("pool1/3x3_s2", 3),
    Norm("pool1/norm1"),
    Conv("conv2/3x3_reduce", 64, 1),
    Conv("conv2/3x3", 192, 3, padding=1),
    Norm("conv2/norm2"),
    Pool("pool2/3x3_s2", 3),
    Inception("inception_3a", 64, 96, 128, 16, 32, 32),
    Inception("inception_3b", 128, 128, 192, 32, 96, 64),
    Pool("pool3/3x3_s2", 3),
    Inception("inception_4a", 192, 96, 208, 16, 48, 64),
    Inception("inception_4b", 160, 112, 224, 24, 64, 64),
    Inception("inception_4c", 128, 128, 256, 24, 64, 64),
    Inception("inception_4d", 112, 144, 288, 32, 64, 64),
    Inception("inception_4e", 256, 160, 320, 32, 128, 128),
    Pool("pool4/3x3_s2", 3),
    Inception("inception_5a", 256, 160, 320, 32, 128, 128),
    Inception("inception_5b", 384, 192, 384, 48, 128, 128),
)


class Trunk(nn.Module):
    """A table of layers as a network.

    Attributes:
        channels: Channels after each row, by its name.
        places: Where the map after each row lies in the image, by its name.
    """

    channels: Mapping[str, int]
    places: Mapping[str, Place]

    def __init__(self, rows: Sequence[Row], *, in_channels: int = 3, width: float = 1.0, dropout: float = 0.5) -> None:
        """Create the layers, drawn as He et al. do.

        Args:
            rows: The table.
            in_channels: Image bands.
            width: Multiplies all channels.
            dropout: Probability of dropping a value after rows that say so, in training.
        """
        super().__init__()
        self.rows = tuple(rows)
        self.dropout = dropout
        channels: dict[str, int] = {}
        places: dict[str, Place] = {}
        before, place = in_channels, Place()
        groups = max(row.groups for row in self.rows if isinstance(row, Conv))
        for row in self.rows:
            if isinstance(row, Conv):
                after = scaled(row.channels, width, multiple=groups)
                self._add(row.name, before, after, row)
                place = place.conv(row.kernel, stride=row.stride, padding=row.padding, dilation=row.dilation)
                before = after
            elif isinstance(row, Inception):
                before = self._add_inception(row, before, width)
                place = place.conv(5, padding=2)  # the widest branch
            elif isinstance(row, Pool):
                place = place.conv(row.kernel, stride=row.stride)
            channels[row.name], places[row.name] = before, place
        self.channels, self.places = MappingProxyType(channels), MappingProxyType(places)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the maps after every pool and after the last row.

        Args:
            images: ``(B, C, H, W)``, floating point.

        Returns:
            ``(B, D, h, w)`` by the name of the row.
        """
        maps: dict[str, Tensor] = {}
        x = images
        for row in self.rows:
            if isinstance(row, Conv):
                x = F.relu(self.get_submodule(_path(row.name))(x), inplace=True)
                if row.dropout:
                    x = F.dropout(x, self.dropout, self.training)
            elif isinstance(row, Pool):
                x = F.max_pool2d(x, row.kernel, row.stride, ceil_mode=True)
                maps[row.name] = x
            elif isinstance(row, Norm):
                x = local_response_norm(x)
            else:
                x = self._inception(row, x)
        maps[self.rows[-1].name] = x
        return maps

    def _add(self, name: str, before: int, after: int, row: Conv) -> None:
        conv = nn.Conv2d(before, after, row.kernel, row.stride, row.padding, dilation=row.dilation, groups=row.groups)
        init_conv(conv)
        *path, last = _path(name).split(".")
        parent: nn.Module = self
        for part in path:
            if not hasattr(parent, part):
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(last, conv)

    def _add_inception(self, row: Inception, before: int, width: float) -> int:
        one, three_reduce, three, five_reduce, five, pool = (scaled(value, width) for value in row[1:])
        for name, inner, after, kernel in (
            ("1x1", before, one, 1),
            ("3x3_reduce", before, three_reduce, 1),
            ("3x3", three_reduce, three, 3),
            ("5x5_reduce", before, five_reduce, 1),
            ("5x5", five_reduce, five, 5),
            ("pool_proj", before, pool, 1),
        ):
            full = f"{row.name}/{name}"
            self._add(full, inner, after, Conv(full, after, kernel, padding=kernel // 2))
        return one + three + five + pool

    def _inception(self, row: Inception, x: Tensor) -> Tensor:
        def conv(name: str, x: Tensor) -> Tensor:
            return F.relu(self.get_submodule(f"{row.name}.{name}")(x), inplace=True)

        pooled = F.max_pool2d(x, 3, 1, 1)
        branches = (conv("1x1", x), conv("3x3", conv("3x3_reduce", x)), conv("5x5", conv("5x5_reduce", x)))
        return torch.cat([*branches, conv("pool_proj", pooled)], dim=1)  # (B, D, h, w)


def scaled(channels: int, width: float, *, multiple: int = 1) -> int:
    """Scale a number of channels.

    Args:
        channels: At width 1.
        width: The factor.
        multiple: What the result is a multiple of.

    Returns:
        At least ``multiple``.
    """
    return max(1, round(channels * width / multiple)) * multiple


def local_response_norm(x: Tensor) -> Tensor:
    """Divide by ``(1 + alpha / 5 * sum of squares over 5 neighbouring channels) ** 0.75``, with alpha 1e-4.

    Args:
        x: ``(B, D, h, w)``, floating point.

    Returns:
        ``(B, D, h, w)``.
    """
    channels = x.shape[1]
    squares = F.pad(x.square(), (0, 0, 0, 0, 2, 2))  # (B, D + 4, h, w)
    total = sum((squares.narrow(1, shift, channels) for shift in range(1, 5)), squares.narrow(1, 0, channels))
    return x / (1 + total * (1e-4 / 5)) ** 0.75


def _path(name: str) -> str:
    return name.replace("/", ".")
