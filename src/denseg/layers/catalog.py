# SPDX-License-Identifier: Apache-2.0
"""All layers, by name: each takes ``in_channels`` first and maps ``(B, C, h, w)`` to ``(B, C', h, w)``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from denseg.layers.aspp import ASPP
from denseg.layers.separable_conv import SeparableConv

__all__ = ["LAYERS"]

LAYERS: Mapping[str, type[nn.Module]] = MappingProxyType(
    {
        "aspp": ASPP,
        "separable_conv": SeparableConv,
    }
)
