# SPDX-License-Identifier: Apache-2.0
"""Asymmetric convolutions in the place of a network's square ones, and back, once it is trained.

Any network can be strengthened so: each square convolution, with the batch norm that follows it where there is one,
becomes an ``AsymmetricConv``; after training ``fuse_asymmetric_convs`` turns each into one square convolution again, so
that the network costs what it did.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from denseg.layers.asymmetric_conv import AsymmetricConv
from denseg.layers.conv import is_plain_conv
from denseg.layers.norm_pairs import find_norm_pairs

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["fuse_asymmetric_convs", "use_asymmetric_convs"]


@torch.no_grad()
def use_asymmetric_convs(
    network: nn.Module,
    images: Tensor,
    *,
    branch_weight: float = 1.0,
    keep: Callable[[str], bool] = lambda name: False,
) -> tuple[str, ...]:
    """Put an asymmetric convolution in the place of every square convolution of side 3 or more.

    The square branch takes the convolution's weights and its norm. Convolutions of another form (even side, one that
    reads a map before it is grown) stay as they are.

    Args:
        network: Changed in place; its mode stays.
        images: ``(B, C, H, W)`` that it can be run on, to find which norm follows which convolution.
        branch_weight: The norms of row and column, and of the square where it is not kept, start with the network's
            norm times this.
        keep: Told the name of a convolution, whether the network must compute there what it did, because its weights
            are trained: row and column then start with weight 0.

    Returns:
        Names of the convolutions that were replaced.
    """
    was_training = network.training
    network.eval()
    norms = dict(find_norm_pairs(network, images))
    network.train(was_training)
    places: dict[nn.Module, list[str]] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        places.setdefault(module, []).append(name)
    done = {part for block in places if isinstance(block, AsymmetricConv) for part in block.modules()}
    replaced = []
    for conv, names in places.items():
        if conv in done or not isinstance(conv, nn.Conv2d) or not _is_square(conv) or len(names) != 1 or not names[0]:
            continue
        norm = norms.get(conv)
        if norm is not None and len(places[norm]) != 1:
            norm = None
        kept = keep(names[0])
        _put(network, names[0], _asymmetric(conv, norm, branch_weight, kept))
        if norm is not None:
            _put(network, places[norm][0], _rest_of(norm))
        replaced.append(names[0])
    return tuple(replaced)


def fuse_asymmetric_convs(network: nn.Module) -> nn.Module:
    """Turn every asymmetric convolution into the one square convolution that equals it in evaluation.

    Args:
        network: Changed in place, but where it is itself an asymmetric convolution.

    Returns:
        The network.
    """
    if isinstance(network, AsymmetricConv):
        return network.fuse()
    for name, module in list(network.named_modules()):
        if isinstance(module, AsymmetricConv):
            _put(network, name, module.fuse().train(module.training))
    return network


def _asymmetric(conv: nn.Conv2d, norm: nn.BatchNorm2d | None, branch_weight: float, kept: bool) -> AsymmetricConv:
    """Build the three branches around a convolution's weights."""
    block = AsymmetricConv(
        conv.in_channels,
        out_channels=conv.out_channels,
        kernel_size=conv.kernel_size[0],
        stride=conv.stride[0],
        padding=int(conv.padding[0]),
        dilation=conv.dilation[0],
        groups=conv.groups,
        branch_weight=branch_weight,
    ).to(conv.weight)
    block.train(conv.training)
    square = block.square
    square.conv.weight.copy_(conv.weight)
    for branch in (block.square, block.row, block.column):
        if norm is not None:
            branch.norm.eps, branch.norm.momentum = norm.eps, norm.momentum
            branch.norm.weight.copy_(norm.weight * branch_weight)
    if kept:
        for branch in (block.row, block.column):
            nn.init.zeros_(branch.norm.weight)
        if norm is not None:
            square.norm.load_state_dict(norm.state_dict())
            if conv.bias is not None and square.norm.running_mean is not None:
                square.norm.running_mean.sub_(conv.bias)
        else:
            nn.init.constant_(square.norm.weight, (1 + square.norm.eps) ** 0.5)
            if conv.bias is not None:
                square.norm.bias.copy_(conv.bias)
    return block


def _is_square(conv: nn.Conv2d) -> bool:
    kernel, stride, dilation = conv.kernel_size, conv.stride, conv.dilation
    return (
        is_plain_conv(conv)
        and kernel[0] == kernel[1] >= 3
        and kernel[0] % 2 == 1
        and stride[0] == stride[1]
        and dilation[0] == dilation[1]
        and not isinstance(conv.padding, str)
        and conv.padding[0] == conv.padding[1]
        and conv.padding_mode == "zeros"
        and not conv.transposed
    )


def _rest_of(norm: nn.BatchNorm2d) -> nn.Module:
    """Give what stays of a norm that went into the branches: timm's also drops and activates."""
    rest: nn.Module = nn.Identity()
    if hasattr(norm, "act"):
        parts = [getattr(norm, part) for part in ("drop", "act") if isinstance(getattr(norm, part, None), nn.Module)]
        rest = nn.Sequential(*parts)
    return rest.train(norm.training)


def _put(network: nn.Module, name: str, module: nn.Module) -> None:
    """Set the module at a dotted name."""
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, module)
