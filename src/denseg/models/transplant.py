# SPDX-License-Identifier: Apache-2.0
"""A trained classifier's weights for a network made of the same layers."""

from __future__ import annotations

import functools

import torch
from torch import nn

from denseg.backbones.weights import create_with_weights
from denseg.errors import UsageError

__all__ = ["load_vgg16", "transplant"]


def load_vgg16(trunk: nn.Module) -> None:
    """Give a VGG16 trunk, fc6 and fc7 included, the ImageNet weights that timm has of it.

    Args:
        trunk: Changed in place; at width 1 and with three bands.
    """
    import timm

    transplant(trunk, create_with_weights(functools.partial(timm.create_model, "vgg16"), "vgg16"))


@torch.no_grad()
def transplant(trunk: nn.Module, classifier: nn.Module) -> None:
    """Copy convolutions and fully connected layers in their order, whatever their names; the last ones may be left.

    Args:
        trunk: Network of convolutions; changed in place, or not at all when an error is raised.
        classifier: The trained network.

    Raises:
        UsageError: A layer has another number of weights.
    """
    targets = [module for module in trunk.modules() if isinstance(module, nn.Conv2d)]
    sources = [module for module in classifier.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    sizes = [[layer.weight.numel() for layer in layers] for layers in (targets, sources)]
    if sizes[0] != sizes[1][: len(targets)]:
        raise UsageError(
            f"the classifier's layers do not fit: {len(targets)} convolutions of {sum(sizes[0]):,} weights are wanted, "
            f"its first {len(targets)} layers have {sum(sizes[1][: len(targets)]):,}; ImageNet weights fit three bands "
            "and width 1 only"
        )
    for target, source in zip(targets, sources, strict=False):
        target.weight.copy_(source.weight.view_as(target.weight))
        if target.bias is not None and source.bias is not None:
            target.bias.copy_(source.bias)
