# SPDX-License-Identifier: Apache-2.0
"""Pure tensor functions: no parameters, no state."""

from __future__ import annotations

from denseg.ops.adaptive import adaptive_pool
from denseg.ops.attention import dense_attention
from denseg.ops.confusion import confusion_counts
from denseg.ops.depthwise import depthwise_atrous_conv2d
from denseg.ops.pad import center_crop, pad_at_least, pad_to_multiple, reflect_pad
from denseg.ops.pyramid import average_pool_pyramid, box_sum_pyramid, max_pool_pyramid
from denseg.ops.resize import resize
from denseg.ops.upsample import conv_on_upsampled

__all__ = [
    "adaptive_pool",
    "average_pool_pyramid",
    "box_sum_pyramid",
    "center_crop",
    "confusion_counts",
    "conv_on_upsampled",
    "dense_attention",
    "depthwise_atrous_conv2d",
    "max_pool_pyramid",
    "pad_at_least",
    "pad_to_multiple",
    "reflect_pad",
    "resize",
]
