# SPDX-License-Identifier: Apache-2.0
"""From a name to a backbone."""

from __future__ import annotations

from denseg.backbones.backbone import Backbone
from denseg.backbones.timm_backbone import create_timm_backbone, timm_names

__all__ = ["backbone_names", "create_backbone"]


def create_backbone(
    name: str, *, in_channels: int = 3, output_stride: int | None = None, pretrained: bool = False
) -> Backbone:
    """Build a backbone.

    Args:
        name: timm's name, for example ``resnet50`` or ``convnext_tiny.fb_in1k``.
        in_channels: Image bands.
        output_stride: Stride of the deepest level; the network's own (mostly 32) if ``None``.
        pretrained: Start from ImageNet weights, downloaded where they are not cached.

    Returns:
        The backbone.

    Raises:
        UnknownNameError: No backbone has that name.
        UnsupportedError: It has no feature pyramid, or cannot be built at that output stride.
        DensegError: The weights cannot be downloaded.
    """
    return create_timm_backbone(name, in_channels=in_channels, output_stride=output_stride, pretrained=pretrained)


def backbone_names() -> tuple[str, ...]:
    """List the names that ``create_backbone`` takes.

    Returns:
        The names, sorted.
    """
    return timm_names()
