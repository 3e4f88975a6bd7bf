# SPDX-License-Identifier: Apache-2.0
"""A library's network as a backbone: any image size, any output stride.

What the library leaves open is found by running the network: whether its maps are channels-first, which sizes it takes,
and whether it rounds map sizes up. Where convolutions and pools alone stand in the way they are made to round up; a
network that takes only multiples of something is fed padded images, and its maps are cut. So every level is
``ceil(H / stride) x ceil(W / stride)`` for every network.

Shape letters: B batch, C channels, H and W image height and width, h and w feature height and width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from denseg.backbones.backbone import Backbone
from denseg.backbones.dilation import Dilation
from denseg.backbones.sizes import Sizes, find_sizes
from denseg.errors import UnsupportedError, UsageError
from denseg.layers.conv import speed_up_depthwise
from denseg.layers.norm import normalize_specially, train_on_single_values
from denseg.ops import pad_to_multiple
from denseg.types import FeatureSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NetworkBackbone", "build_backbone"]

CONVOLUTIONAL = "resnet50, vgg16_bn, densenet121, mobilenetv2_100, efficientnet_b0, convnext_tiny, xception65"
"""Examples of backbones that take any size and any output stride, for messages."""


class NetworkBackbone(Backbone):
    """A network that gives one map per level."""

    def __init__(
        self, network: nn.Module, *, name: str, in_channels: int, specs: Sequence[FeatureSpec], sizes: Sizes
    ) -> None:
        """Take over a network.

        Args:
            network: Maps ``(B, C, H, W)`` to one map per level.
            name: Its name.
            in_channels: Image bands.
            specs: Its levels, at its own output stride.
            sizes: Which sizes it takes.
        """
        super().__init__()
        self.network = network
        self.name = name
        self.in_channels = in_channels
        self.sizes = sizes
        self.specs = tuple(specs)
        self._own = (tuple(specs), sizes)
        self._dilation: Dilation | None = None

    def set_output_stride(
        self, output_stride: int | None, *, rule: str = "exact", multi_grid: Sequence[int] = ()
    ) -> None:
        """Change the output stride, also after training: weights and their names stay.

        Args:
            output_stride: Stride of the deepest level; the network's own if ``None``.
            rule: What modules that lose their stride read: ``exact`` (a trous) or ``uniform`` (DeepLab v2, PSPNet).
            multi_grid: Multiplies the rates of the last stage's units, one number each; empty for none.

        Raises:
            UsageError: The stride is larger than the network's own or no power of two from 4 on, the rule is unknown,
                or ``multi_grid`` does not fit the last stage.
            UnsupportedError: The network's resolution does not fall in convolutions and pools alone.
        """
        specs, sizes = self._own
        own = specs[-1].stride
        stride = own if output_stride is None else output_stride
        if stride > own:
            raise UsageError(f"backbone {self.name!r} has output stride {own}; it can be made smaller, not {stride}")
        if stride < 4 or stride & (stride - 1):
            raise UsageError(f"output_stride must be 4, 8, 16 or 32, got {stride}")
        if self._dilation is None:
            if stride == own and not multi_grid and rule == "exact":
                return
            step = sizes.step if sizes.step % own == 0 else own * sizes.step
            side = step * -(-4 * own // step)
            self._dilation = Dilation(self.network, in_channels=self.in_channels, side=side)
        self._dilation.set(stride, rule=rule, multi_grid=multi_grid)
        dilated = tuple(FeatureSpec(spec.channels, min(spec.stride, stride)) for spec in specs)
        found: Sizes | None = sizes
        if stride != own or multi_grid:
            found = find_sizes(
                self.network, dilated, in_channels=self.in_channels, made_for=sizes.step, may_change=False
            )
        if found is None:
            self._dilation.set(own)
            raise UnsupportedError(
                f"backbone {self.name!r} cannot be dilated to output stride {stride}: its resolution does not fall in "
                f"convolutions and pools alone; use its own, output_stride={own}, or a convolutional backbone, for "
                f"example {CONVOLUTIONAL}"
            )
        self.specs, self.sizes = dilated, found
        speed_up_depthwise(self.network)

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


def build_backbone(
    network: nn.Module, *, name: str, in_channels: int, specs: Sequence[FeatureSpec], made_for: int
) -> NetworkBackbone | None:
    """Make a backbone of a network that gives one map per level.

    Args:
        network: The network; norms learn to train on single values, convolutions and pools to round sizes up.
        name: Its name.
        in_channels: Image bands.
        specs: What its levels should be.
        made_for: Side of the images that it was made for.

    Returns:
        The backbone; ``None`` where the network takes no sizes but its own.
    """
    sizes = find_sizes(network, specs, in_channels=in_channels, made_for=made_for)
    if sizes is None:
        return None
    train_on_single_values(network)
    speed_up_depthwise(network)
    for module in network.modules():
        if type(module) is BatchNormAct2d:
            module.__class__ = _BatchNormAct2d
    return NetworkBackbone(network, name=name, in_channels=in_channels, specs=specs, sizes=sizes)


class _BatchNormAct2d(BatchNormAct2d):
    """timm's fused norm, with what ``denseg.layers.BatchNorm2d`` does differently from torch's."""

    def forward(self, x: Tensor) -> Tensor:
        normalized = normalize_specially(self, x)
        if normalized is None:
            out: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        else:
            out = self.act(self.drop(normalized))
        return out
