# SPDX-License-Identifier: Apache-2.0
"""Which image sizes a network takes, found by running it once on zeros of a few small sizes.

Shape letters: B batch, C channels, h and w feature height and width.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from denseg.backbones.window import blank_image, has_window, round_up

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from denseg.types import FeatureSpec

__all__ = ["Sizes", "find_sizes"]


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


def find_sizes(
    network: nn.Module, specs: Sequence[FeatureSpec], *, in_channels: int, made_for: int, may_change: bool = True
) -> Sizes | None:
    """Run the network on small images to learn which sizes it takes.

    Args:
        network: Gives one map per level.
        specs: What the levels should be.
        in_channels: Image bands.
        made_for: Side of the images that it was made for, tried last.
        may_change: Whether its convolutions and pools may be made to round sizes up.

    Returns:
        The rule, ``None`` if no rule covers the network.
    """
    stride = specs[-1].stride
    training = network.training
    network.eval()
    try:
        fits = functools.partial(_fits, network, specs, in_channels)
        rule = _any_size(fits, stride)
        if rule is None and may_change:
            before = _round_up(network)
            rule = _any_size(fits, stride) or _multiples(fits, (stride, 2 * stride))
            if rule is None:
                _undo(before)
        return rule or _multiples(fits, (stride, 2 * stride, made_for))
    finally:
        network.train(training)


@torch.no_grad()
def _fits(
    network: nn.Module,
    specs: Sequence[FeatureSpec],
    in_channels: int,
    channels_first: bool,
    height: int,
    width: int,
) -> bool:
    """Whether the network takes this size and every level has the size ``ceil(size / stride)``."""
    try:
        features = network(blank_image(network, in_channels, height, width))
    except (AssertionError, RuntimeError, ValueError, IndexError, TypeError):
        return False
    for feature, spec in zip(features, specs, strict=True):
        size = (-(-height // spec.stride), -(-width // spec.stride))
        if feature.shape != ((1, spec.channels, *size) if channels_first else (1, *size, spec.channels)):
            return False
    return True


def _any_size(fits: Callable[..., bool], stride: int) -> Sizes | None:
    for channels_first in (True, False):
        if fits(channels_first, stride, 2 * stride) and fits(channels_first, stride + 1, 2 * stride - 1):
            small = all(fits(channels_first, size, 2 * size) for size in (1, stride // 2 + 1))
            return Sizes(1, 1 if small else stride, channels_first)
    return None


def _multiples(fits: Callable[..., bool], steps: Sequence[int]) -> Sizes | None:
    for channels_first in (True, False):
        for step in steps:
            if fits(channels_first, step, step) and fits(channels_first, 2 * step, 3 * step):
                return Sizes(step, step, channels_first)
    return None


def _round_up(network: nn.Module) -> list[tuple[Any, Any, dict[str, Any]]]:
    """Let all windows round sizes up; return what the modules were before."""
    before = [(m, type(m), dict(vars(m))) for m in network.modules() if has_window(m)]
    for module, _, _ in before:
        round_up(module)
    return before


def _undo(before: list[tuple[Any, Any, dict[str, Any]]]) -> None:
    for module, kind, attributes in before:
        module.__class__ = kind
        vars(module).clear()
        vars(module).update(attributes)
