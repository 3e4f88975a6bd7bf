# SPDX-License-Identifier: Apache-2.0
"""timm's networks as backbones."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import timm
from torch import nn

from denseg.backbones.network import CONVOLUTIONAL, NetworkBackbone, build_backbone
from denseg.backbones.weights import create_with_weights, weight_names
from denseg.errors import DensegError, UnknownNameError, UnsupportedError
from denseg.types import FeatureSpec

__all__ = ["create_timm_backbone", "timm_names"]

_EXAMPLES = "resnet50, mobilenetv2_100, efficientnet_b0, convnext_tiny, swin_tiny_patch4_window7_224"
# Networks made for one image size that take others when they are told so.
_ANY_SIZE_OPTIONS: tuple[dict[str, Any], ...] = ({}, {"strict_img_size": False})


def create_timm_backbone(
    name: str,
    *,
    in_channels: int,
    pretrained: bool,
    options: Mapping[str, Any],
    prepare: Callable[[nn.Module], None],
) -> NetworkBackbone:
    """Build a timm network as a backbone, at its own output stride.

    Args:
        name: timm's name, with or without a weight tag.
        in_channels: Image bands.
        pretrained: Start from ImageNet weights.
        options: What timm's constructor takes besides.
        prepare: Changes the network before anything is found out about it.

    Returns:
        The backbone.

    Raises:
        UnknownNameError: timm has no weights of that tag.
        UnsupportedError: The network has no feature pyramid, or takes one image size only.
    """
    architecture, _, tag = name.partition(".")
    if tag and name not in weight_names(architecture):
        raise UnknownNameError("backbone", name, [architecture, *weight_names(architecture)])
    config = timm.get_pretrained_cfg(name)
    made_for = 224 if config is None else max(config.input_size[1:])
    for any_size in _ANY_SIZE_OPTIONS:
        network = _create_network(name, in_channels, pretrained, {**options, **any_size}, required=not any_size)
        if network is None:
            continue
        specs = _specs(network, name)
        prepare(network)
        backbone = build_backbone(network, name=name, in_channels=in_channels, specs=specs, made_for=made_for)
        if backbone is not None:
            return backbone
    raise UnsupportedError(
        f"backbone {name!r} does not take images of any size; take one that does, for example {_EXAMPLES}"
    )


@functools.cache
def timm_names() -> tuple[str, ...]:
    """List timm's network names.

    Returns:
        The names, sorted.
    """
    return tuple(sorted(timm.list_models()))


def _create_network(
    name: str, in_channels: int, pretrained: bool, options: Mapping[str, Any], *, required: bool
) -> nn.Module | None:
    """Build the network; ``None`` where it does not know ``options`` and may not."""
    create = functools.partial(timm.create_model, name, features_only=True, in_chans=in_channels, **options)
    try:
        network: nn.Module = create_with_weights(create, name) if pretrained else create()
    except TypeError:
        if required:
            raise
        return None
    except DensegError:
        raise
    except (AssertionError, AttributeError, IndexError, RuntimeError) as error:
        raise UnsupportedError(
            f"timm gives no feature maps of backbone {name!r} ({error}); take for example {_EXAMPLES}"
        ) from error
    return network


def _specs(network: Any, name: str) -> tuple[FeatureSpec, ...]:
    """Read the levels; refuse networks whose maps are no pyramid from stride 4 or finer."""
    specs = tuple(FeatureSpec(level["num_chs"], level["reduction"]) for level in network.feature_info.get_dicts())
    strides = [spec.stride for spec in specs]
    power_of_two = all(stride & (stride - 1) == 0 for stride in strides)
    if not power_of_two or strides != sorted(strides) or strides[0] > 4 or strides[-1] < 8:
        raise UnsupportedError(
            f"backbone {name!r} has no feature pyramid (its maps have strides {', '.join(map(str, strides))}; "
            f"4 or finer down to 8 or coarser is needed); take for example {CONVOLUTIONAL}"
        )
    return specs
