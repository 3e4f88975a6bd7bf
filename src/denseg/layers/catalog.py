# SPDX-License-Identifier: Apache-2.0
"""All layers, by name: each takes ``in_channels`` first and maps ``(B, C, h, w)`` to ``(B, C', h, w)``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from denseg.layers.aspp import ASPP
from denseg.layers.asymmetric_conv import AsymmetricConv
from denseg.layers.channel_attention import ChannelAttention
from denseg.layers.criss_cross_attention import CrissCrossAttention
from denseg.layers.dilated_context import DilatedContext
from denseg.layers.expectation_maximization_attention import ExpectationMaximizationAttention
from denseg.layers.global_context import GlobalContext
from denseg.layers.location_aware_attention import LocationAwareAttention
from denseg.layers.non_local import NonLocal
from denseg.layers.position_attention import PositionAttention
from denseg.layers.pyramid_pooling import PyramidPooling
from denseg.layers.separable_conv import SeparableConv
from denseg.layers.spatial_pyramid_pooling import SpatialPyramidPooling

__all__ = ["LAYERS"]

LAYERS: Mapping[str, type[nn.Module]] = MappingProxyType(
    {
        "aspp": ASPP,
        "asymmetric_conv": AsymmetricConv,
        "channel_attention": ChannelAttention,
        "criss_cross_attention": CrissCrossAttention,
        "dilated_context": DilatedContext,
        "expectation_maximization_attention": ExpectationMaximizationAttention,
        "global_context": GlobalContext,
        "location_aware_attention": LocationAwareAttention,
        "non_local": NonLocal,
        "position_attention": PositionAttention,
        "pyramid_pooling": PyramidPooling,
        "separable_conv": SeparableConv,
        "spatial_pyramid_pooling": SpatialPyramidPooling,
    }
)
