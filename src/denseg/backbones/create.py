# SPDX-License-Identifier: Apache-2.0
"""From a name and options to a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
from torch import nn

from denseg.backbones.backbone import Backbone
from denseg.backbones.timm_backbone import create_timm_backbone, timm_names
from denseg.backbones.torchvision_backbone import create_torchvision_backbone, torchvision_names
from denseg.backbones.xception import RELEASED_MOMENTUM, adapt_xception, is_xception
from denseg.errors import UnknownNameError, UnsupportedError, UsageError
from denseg.layers.norm import set_norm_momentum

__all__ = ["backbone_names", "create_backbone"]


def create_backbone(  # noqa: PLR0913 - the options of any network
    name: str,
    *,
    in_channels: int = 3,
    output_stride: int | None = None,
    pretrained: bool = False,
    dilation_rule: str = "exact",
    multi_grid: Sequence[int] | None = None,
    stem: str | None = None,
    pool_size: int | None = None,
    depth: int | None = None,
    activations: str | None = None,
    norm_momentum: float | None = None,
) -> Backbone:
    """Build a backbone.

    Args:
        name: timm's name, for example ``resnet50`` or ``convnext_tiny.fb_in1k``; else torchvision's, for example
            ``alexnet`` or ``googlenet``.
        in_channels: Image bands.
        output_stride: Stride of the deepest level; the network's own (mostly 32) if ``None``.
        pretrained: Start from ImageNet weights, downloaded where they are not cached.
        dilation_rule: What modules that lose their stride read: ``exact`` (a trous: what they read before) or
            ``uniform`` (the whole stage at one rate: DeepLab v2, PSPNet, MMSegmentation).
        multi_grid: Multiplies the rates of the last stage's units, one number each; DeepLab v3 takes 1, 2, 4.
        stem: ``deep`` for three 3x3 convolutions (64, 64, 128) in place of a ResNet's 7x7: PSPNet's.
        pool_size: Side of the windows of 2x2 max pools; 3 in DeepLab v1 and v2 on VGG.
        depth: Levels that are kept, finest first; all if ``None``.
        activations: Of Xception 41, 65, 71: ``released`` or ``paper`` (a ReLU after every 3x3 depthwise convolution).
        norm_momentum: Of the batch norms: 1 - decay. The network's own if ``None``: 0.0003 for Xception 41, 65, 71,
            mostly 0.1 for others.

    Returns:
        The backbone.

    Raises:
        UnknownNameError: No backbone has that name.
        UnsupportedError: It has no feature pyramid, cannot be dilated, or lacks what an option changes.
        UsageError: An option is out of range.
        DensegError: The weights cannot be downloaded.
    """
    if stem not in {None, "deep"}:
        raise UsageError(f"stem is 'deep' or left out, got {stem!r}")
    if norm_momentum is not None and not 0 < norm_momentum <= 1:
        raise UsageError(f"norm_momentum must be above 0 and at most 1, got {norm_momentum}")

    def prepare(network: nn.Module) -> None:
        if is_xception(network):
            adapt_xception(network, activations=activations or "released")
            set_norm_momentum(network, RELEASED_MOMENTUM, settled=pretrained)
        elif activations is not None:
            raise UnsupportedError(f"activations are Xception 41's, 65's and 71's; backbone {name!r} has its own")
        if norm_momentum is not None:
            set_norm_momentum(network, norm_momentum, settled=pretrained)
        if pool_size is not None:
            _set_pools(network, pool_size)

    architecture = name.partition(".")[0]
    if architecture in timm_names():
        options = _timm_options(name, stem=stem, depth=depth, pretrained=pretrained)
        try:
            backbone = create_timm_backbone(
                name, in_channels=in_channels, pretrained=pretrained, options=options, prepare=prepare
            )
        except UnsupportedError:
            if options or name not in torchvision_names():
                raise
            backbone = create_torchvision_backbone(
                name, in_channels=in_channels, pretrained=pretrained, prepare=prepare
            )  # Inception v3's pools are function calls in timm
    elif name in torchvision_names():
        if stem is not None or depth is not None:
            raise UnsupportedError(
                f"backbone {name!r} is torchvision's, which takes no stem and no depth; leave them out"
            )
        backbone = create_torchvision_backbone(name, in_channels=in_channels, pretrained=pretrained, prepare=prepare)
    else:
        raise UnknownNameError("backbone", name, backbone_names())
    backbone.set_output_stride(output_stride, rule=dilation_rule, multi_grid=multi_grid or ())
    return backbone


def backbone_names() -> tuple[str, ...]:
    """List the names that ``create_backbone`` takes.

    Returns:
        timm's and torchvision's names, sorted.
    """
    return tuple(sorted({*timm_names(), *torchvision_names()}))


def _timm_options(name: str, *, stem: str | None, depth: int | None, pretrained: bool) -> dict[str, Any]:
    """Say options in timm's words."""
    options: dict[str, Any] = {}
    if stem is not None:
        if timm.model_entrypoint(name).__module__ != "timm.models.resnet":
            raise UnsupportedError(f"stem='deep' is for ResNets of timm, for example resnet50; got {name!r}")
        if pretrained:
            raise UnsupportedError(
                f"there are no ImageNet weights of backbone {name!r} with stem='deep'; start without (--init none)"
            )
        options |= {"stem_type": "deep", "stem_width": 64}  # 64, 64, 128 channels
    if depth is not None:
        if depth < 2:
            raise UsageError(f"depth must be at least 2 levels, got {depth}")
        options["out_indices"] = tuple(range(depth))
    return options


def _set_pools(network: nn.Module, size: int) -> None:
    """Widen 2x2 max pools; larger ones stay."""
    if size < 2:
        raise UsageError(f"pool_size must be at least 2, got {size}")
    for module in network.modules():
        if isinstance(module, nn.MaxPool2d) and module.kernel_size in {2, (2, 2)}:
            module.kernel_size, module.padding = size, (size - 1) // 2
