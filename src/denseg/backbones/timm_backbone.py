# SPDX-License-Identifier: Apache-2.0
"""timm's networks as backbones."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import timm

from denseg.backbones.backbone import Backbone
from denseg.errors import UnknownNameError
from denseg.types import FeatureSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["TimmBackbone", "create_timm_backbone", "timm_names"]


class TimmBackbone(Backbone):
    """A timm network cut into its feature levels."""

    def __init__(self, network: nn.Module, *, name: str, in_channels: int) -> None:
        """Take over a network made with ``features_only=True``.

        Args:
            network: The network.
            name: Its name.
            in_channels: Image bands.
        """
        super().__init__()
        self.network = network
        self.name = name
        self.in_channels = in_channels
        self.specs = tuple(FeatureSpec(i["num_chs"], i["reduction"]) for i in network.feature_info.get_dicts())

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the pyramid.

        Args:
            images: ``(B, C, H, W)``, floating point.

        Returns:
            One ``(B, C', h, w)`` per entry of ``specs``.
        """
        return tuple(self.network(images))


def create_timm_backbone(name: str, *, in_channels: int, output_stride: int | None, pretrained: bool) -> TimmBackbone:
    """Build a timm network as a backbone; see ``create_backbone``."""
    if name.partition(".")[0] not in timm_names():
        raise UnknownNameError("backbone", name, timm_names())
    options = {} if output_stride is None else {"output_stride": output_stride}
    network = timm.create_model(name, features_only=True, in_chans=in_channels, pretrained=pretrained, **options)
    return TimmBackbone(network, name=name, in_channels=in_channels)


@functools.cache
def timm_names() -> tuple[str, ...]:
    """List timm's network names.

    Returns:
        The names, sorted.
    """
    return tuple(sorted(timm.list_models()))
