# SPDX-License-Identifier: Apache-2.0
"""Building blocks and context layers: feature maps in, feature maps out."""

from __future__ import annotations

from denseg.layers.conv import ConvBlock
from denseg.layers.norm import BatchNorm2d, is_single_value

__all__ = ["BatchNorm2d", "ConvBlock", "is_single_value"]
