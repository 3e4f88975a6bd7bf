# SPDX-License-Identifier: Apache-2.0
"""Building blocks and context layers: feature maps in, feature maps out."""

from __future__ import annotations

from denseg.layers.aspp import ASPP
from denseg.layers.asymmetric_conv import AsymmetricConv
from denseg.layers.asymmetric_swap import fuse_asymmetric_convs, use_asymmetric_convs
from denseg.layers.catalog import LAYERS
from denseg.layers.channel_attention import ChannelAttention
from denseg.layers.conv import ConvBlock, UpConvBlock, init_classifier, init_conv, speed_up_depthwise
from denseg.layers.criss_cross_attention import CrissCrossAttention
from denseg.layers.dilated_context import DilatedContext
from denseg.layers.expectation_maximization_attention import ExpectationMaximizationAttention
from denseg.layers.fold import fold_batch_norms
from denseg.layers.global_context import GlobalContext
from denseg.layers.hybrid_distance_relation import HybridDistanceRelation
from denseg.layers.location_aware_attention import LocationAwareAttention
from denseg.layers.non_local import NonLocal
from denseg.layers.norm import BatchNorm2d, is_single_value, train_on_single_values
from denseg.layers.position_attention import PositionAttention
from denseg.layers.pyramid_pooling import PyramidPooling
from denseg.layers.separable_conv import SeparableConv
from denseg.layers.spatial_pyramid_pooling import SpatialPyramidPooling

__all__ = [
    "ASPP",
    "LAYERS",
    "AsymmetricConv",
    "BatchNorm2d",
    "ChannelAttention",
    "ConvBlock",
    "CrissCrossAttention",
    "DilatedContext",
    "ExpectationMaximizationAttention",
    "GlobalContext",
    "HybridDistanceRelation",
    "LocationAwareAttention",
    "NonLocal",
    "PositionAttention",
    "PyramidPooling",
    "SeparableConv",
    "SpatialPyramidPooling",
    "UpConvBlock",
    "fold_batch_norms",
    "fuse_asymmetric_convs",
    "init_classifier",
    "init_conv",
    "is_single_value",
    "speed_up_depthwise",
    "train_on_single_values",
    "use_asymmetric_convs",
]
