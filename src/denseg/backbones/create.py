# SPDX-License-Identifier: Apache-2.0
"""From a name to a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from denseg.backbones.backbone import Backbone
from denseg.backbones.timm_backbone import create_timm_backbone, timm_names
from denseg.errors import UnknownNameError

__all__ = ["backbone_names", "create_backbone"]


def create_backbone(
    name: str,
    *,
    in_channels: int = 3,
    output_stride: int | None = None,
    pretrained: bool = False,
    dilation_rule: str = "exact",
    multi_grid: Sequence[int] | None = None,
) -> Backbone:
    """Build a backbone.

    Args:
        name: timm's name, for example ``resnet50`` or ``convnext_tiny.fb_in1k``.
        in_channels: Image bands.
        output_stride: Stride of the deepest level; the network's own (mostly 32) if ``None``.
        pretrained: Start from ImageNet weights, downloaded where they are not cached.
        dilation_rule: What modules that lose their stride read: ``exact`` (a trous: what they read before) or
            ``uniform`` (the whole stage at one rate: DeepLab v2, PSPNet, MMSegmentation).
        multi_grid: Multiplies the rates of the last stage's units, one number each; DeepLab v3 takes 1, 2, 4.

    Returns:
        The backbone.

    Raises:
        UnknownNameError: No backbone has that name.
        UnsupportedError: It has no feature pyramid, or cannot be dilated.
        UsageError: An option is out of range.
        DensegError: The weights cannot be downloaded.
    """
    options: dict[str, Any] = {}
    if name.partition(".")[0] not in timm_names():
        raise UnknownNameError("backbone", name, backbone_names())
    backbone = create_timm_backbone(name, in_channels=in_channels, pretrained=pretrained, options=options)
    backbone.set_output_stride(output_stride, rule=dilation_rule, multi_grid=multi_grid or ())
    return backbone


def backbone_names() -> tuple[str, ...]:
    """List the names that ``create_backbone`` takes.

    Returns:
        The names, sorted.
    """
    return timm_names()
