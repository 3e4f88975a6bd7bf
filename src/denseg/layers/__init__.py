# SPDX-License-Identifier: Apache-2.0
"""Building blocks and context layers: feature maps in, feature maps out."""

from __future__ import annotations

from denseg.layers.aspp import ASPP
from denseg.layers.catalog import LAYERS
from denseg.layers.conv import ConvBlock, init_classifier, init_conv
from denseg.layers.norm import BatchNorm2d, is_single_value, train_on_single_values
from denseg.layers.separable_conv import SeparableConv

__all__ = [
    "ASPP",
    "LAYERS",
    "BatchNorm2d",
    "ConvBlock",
    "SeparableConv",
    "init_classifier",
    "init_conv",
    "is_single_value",
    "train_on_single_values",
]
