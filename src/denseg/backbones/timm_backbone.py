# SPDX-License-Identifier: Apache-2.0
"""timm's networks as backbones that take any image size.

What timm leaves open is found by running the network once, on zeros of a few small sizes: whether its maps are
channels-first, which sizes it takes, and whether it rounds map sizes up. One that takes only multiples of something is
fed padded images, and its maps are cut; so every level is ``ceil(H / stride) x ceil(W / stride)`` for every network.

Shape letters: B batch, C channels, H and W image height and width, h and w feature height and width.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import timm
import torch
import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from denseg.backbones.backbone import Backbone
from denseg.backbones.weights import create_with_weights, weight_names
from denseg.errors import DensegError, UnknownNameError, UnsupportedError, UsageError
from denseg.layers.conv import speed_up_depthwise
from denseg.layers.norm import is_single_value, train_on_single_values
from denseg.ops import pad_to_multiple
from denseg.types import FeatureSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["TimmBackbone", "create_timm_backbone", "timm_names"]

_DILATED_EXAMPLES = (
    "resnet50, resnext50_32x4d, mobilenetv2_100, efficientnet_b0, regnety_008, convnext_tiny, xception65"
)
_EXAMPLES = "resnet50, mobilenetv2_100, efficientnet_b0, convnext_tiny, swin_tiny_patch4_window7_224"
# Networks made for one image size that take others when they are told so.
_ANY_SIZE_OPTIONS: tuple[dict[str, Any], ...] = ({}, {"strict_img_size": False})


@dataclass(frozen=True)
class Sizes:
    """Which sizes a network takes, and how its maps lie in memory.

    Attributes:
        step: Image sizes are multiples of it, in pixels.
        minimum: Smallest image size, in pixels.
        channels_first: Maps are ``(B, C, h, w)``; else ``(B, h, w, C)``.
    """

    step: int = 1
    minimum: int = 1
    channels_first: bool = True


class TimmBackbone(Backbone):
    """A timm network cut into its feature levels."""

    def __init__(self, network: nn.Module, *, name: str, in_channels: int, sizes: Sizes) -> None:
        """Take over a network made with ``features_only=True``.

        Args:
            network: The network.
            name: Its name.
            in_channels: Image bands.
            sizes: Which sizes it takes.
        """
        super().__init__()
        self.network = network
        self.name = name
        self.in_channels = in_channels
        self.sizes = sizes
        self.specs = _specs(network)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the pyramid.

        Args:
            images: ``(B, C, H, W)``, floating point, any H and W >= 1.

        Returns:
            One ``(B, C', ceil(H / stride), ceil(W / stride))`` per entry of ``specs``.
        """
        height, width = images.shape[-2:]
        padded = images
        if height < self.sizes.minimum or width < self.sizes.minimum:
            minimum = self.sizes.minimum
            padded = F.pad(images, (0, max(minimum - width, 0), 0, max(minimum - height, 0)))
        if self.sizes.step > 1:
            padded = pad_to_multiple(padded, self.sizes.step)
        features: Sequence[Tensor] = self.network(padded)
        if not self.sizes.channels_first:
            features = [feature.permute(0, 3, 1, 2) for feature in features]  # (B, h, w, C) -> (B, C, h, w)
        if padded is images:
            return tuple(features)
        return tuple(
            feature[..., : -(-height // spec.stride), : -(-width // spec.stride)]
            for feature, spec in zip(features, self.specs, strict=True)
        )


def create_timm_backbone(name: str, *, in_channels: int, output_stride: int | None, pretrained: bool) -> TimmBackbone:
    """Build a timm network as a backbone.

    Args:
        name: timm's name, with or without a weight tag.
        in_channels: Image bands.
        output_stride: Stride of the deepest level; the network's own if ``None``.
        pretrained: Start from ImageNet weights.

    Returns:
        The backbone.

    Raises:
        UnknownNameError: timm has no network of that name.
        UnsupportedError: It has no feature pyramid, takes one image size only, or timm cannot dilate it.
        UsageError: The output stride is larger than the network's own.
    """
    architecture, _, tag = name.partition(".")
    if architecture not in timm_names():
        raise UnknownNameError("backbone", name, timm_names())
    if tag and name not in weight_names(architecture):
        raise UnknownNameError("backbone", name, [architecture, *weight_names(architecture)])
    for options in _ANY_SIZE_OPTIONS:
        network = _create_network(name, in_channels, output_stride, pretrained, options)
        if network is None:
            continue
        sizes = _find_sizes(network, name, in_channels)
        if sizes is not None:
            _adapt(network)
            return TimmBackbone(network, name=name, in_channels=in_channels, sizes=sizes)
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
    name: str, in_channels: int, output_stride: int | None, pretrained: bool, options: dict[str, Any]
) -> nn.Module | None:
    """Build the network; ``None`` where it does not know ``options``."""
    create = functools.partial(timm.create_model, name, features_only=True, in_chans=in_channels, **options)
    if output_stride is not None:
        dilated = functools.partial(create, output_stride=output_stride)
        try:
            network = create_with_weights(dilated, name) if pretrained else dilated()
        except (AssertionError, AttributeError, KeyError, TypeError, RuntimeError, ValueError):
            network = None  # timm refuses in ways that differ by network
        if network is not None and _check_pyramid(network, name) == output_stride:
            return network
    try:
        network = create_with_weights(create, name) if pretrained else create()
    except TypeError:
        if not options:
            raise
        return None
    except DensegError:
        raise
    except (AttributeError, RuntimeError) as error:
        raise UnsupportedError(
            f"timm gives no feature maps of backbone {name!r} ({error}); take for example {_EXAMPLES}"
        ) from error
    own = _check_pyramid(network, name)
    if output_stride is None or output_stride == own:
        return network
    if output_stride > own:
        raise UsageError(f"backbone {name!r} has output stride {own}; it can be made smaller, not {output_stride}")
    raise UnsupportedError(
        f"timm cannot build backbone {name!r} at output stride {output_stride}; use its own, output_stride={own}, "
        f"or a backbone that timm dilates to 8 and 16, for example {_DILATED_EXAMPLES}"
    )


def _specs(network: nn.Module) -> tuple[FeatureSpec, ...]:
    info: Any = network.feature_info
    return tuple(FeatureSpec(level["num_chs"], level["reduction"]) for level in info.get_dicts())


def _check_pyramid(network: nn.Module, name: str) -> int:
    """Refuse networks whose maps are no pyramid from stride 4 or finer; return the stride of the deepest level."""
    strides = [spec.stride for spec in _specs(network)]
    power_of_two = all(stride & (stride - 1) == 0 for stride in strides)
    if not power_of_two or strides != sorted(strides) or strides[0] > 4 or strides[-1] < 8:
        raise UnsupportedError(
            f"backbone {name!r} has no feature pyramid (its maps have strides {', '.join(map(str, strides))}; "
            f"4 or finer down to 8 or coarser is needed); take for example {_EXAMPLES}"
        )
    return strides[-1]


def _find_sizes(network: nn.Module, name: str, in_channels: int) -> Sizes | None:
    """Run the network on small images to learn which sizes it takes; ``None`` if no rule covers them."""
    stride = _specs(network)[-1].stride
    config = timm.get_pretrained_cfg(name)
    made_for = 224 if config is None else max(config.input_size[1:])
    network.eval()
    try:
        for padded in (False, True):
            if padded and not _pad_unpadded(network):
                break
            for channels_first in (True, False):
                fits = functools.partial(_fits, network, in_channels, channels_first)
                if fits(stride, 2 * stride) and fits(stride + 1, 2 * stride - 1):
                    small = all(fits(size, 2 * size) for size in (1, stride // 2 + 1))
                    return Sizes(1, 1 if small else stride, channels_first)
                for step in (stride, 2 * stride, made_for):
                    if fits(step, step) and fits(2 * step, 3 * step):
                        return Sizes(step, step, channels_first)
    finally:
        network.train()
    return None


@torch.no_grad()
def _fits(network: nn.Module, in_channels: int, channels_first: bool, height: int, width: int) -> bool:
    """Whether the network takes this size and every level has the size ``ceil(size / stride)``."""
    try:
        features = network(torch.zeros(1, in_channels, height, width))
    except (AssertionError, RuntimeError, ValueError, IndexError, TypeError):
        return False
    for feature, spec in zip(features, _specs(network), strict=True):
        size = (-(-height // spec.stride), -(-width // spec.stride))
        if feature.shape != ((1, spec.channels, *size) if channels_first else (1, *size, spec.channels)):
            return False
    return True


def _pad_unpadded(network: nn.Module) -> bool:
    """Give convolutions and pools without padding that overlap (Inception's) the padding that keeps sizes."""
    changed = False
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
            kernel, stride, padding = (_pair(value) for value in (module.kernel_size, module.stride, module.padding))
            if padding == (0, 0) and any(k > s for k, s in zip(kernel, stride, strict=True)):
                module.padding = (kernel[0] // 2, kernel[1] // 2)
                changed = True
    return changed


def _pair(value: Any) -> tuple[Any, Any]:
    return value if isinstance(value, tuple) else (value, value)


def _adapt(network: nn.Module) -> None:
    """Let norms train on single values and dilated depthwise convolutions be fast; the state dict stays timm's."""
    train_on_single_values(network)
    speed_up_depthwise(network)
    for module in network.modules():
        if type(module) is BatchNormAct2d:
            module.__class__ = _BatchNormAct2d


class _BatchNormAct2d(BatchNormAct2d):
    """timm's fused norm, except that a single value per channel is normalised by the running statistics."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and is_single_value(x):
            x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
            out: Tensor = self.act(self.drop(x))
        else:
            out = super().forward(x)  # type: ignore[no-untyped-call]
        return out
