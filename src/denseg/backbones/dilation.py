# SPDX-License-Identifier: Apache-2.0
"""Any convolutional network at a smaller output stride: strides removed, and what follows them dilated.

The network runs once and tells at which stride every convolution and pool works. At output stride T a map of stride s
keeps the stride min(s, T), and where s is larger the network's windows read every (s / T)-th position. Two rules differ
in the modules that lose their stride:

* ``exact`` (a trous): they read what they read before, so that the dilated network's output, subsampled, is the strided
  network's. timm, torchvision and TensorFlow's ``stack_blocks_dense`` do so.
* ``uniform``: the convolutions of a whole stage, from the one that loses its stride on, have the stage's rate; pools
  keep their windows. DeepLab v1 to v3, PSPNet, MMSegmentation and segmentation_models_pytorch do so. TensorFlow's
  ResNets have their strides at the end of stages, where both rules give these rates.

Shape letters: B batch, C channels, H and W image height and width, h and w feature height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from denseg.backbones.window import Window, blank_image, has_window, set_window, window_of
from denseg.errors import UsageError

__all__ = ["DILATION_RULES", "Dilation"]

DILATION_RULES = ("exact", "uniform")


@dataclass(frozen=True)
class _Place:
    """A module with a window, and the strides between which it works.

    Attributes:
        name: Dotted name in the network.
        module: The module.
        window: How it was made; ``None`` for ``nn.Upsample``.
        before: Stride of its input.
        after: Stride of its output.
    """

    name: str
    module: Any
    window: Window | None
    before: int
    after: int

    @property
    def is_spatial(self) -> bool:
        """Whether it is a convolution whose window has more than one position."""
        return self.window is not None and max(self.window.kernel) > 1 and hasattr(self.module, "weight")


class Dilation:
    """Changes the output stride of a network, as often as one likes."""

    def __init__(self, network: nn.Module, *, in_channels: int, side: int) -> None:
        """Run the network on an image of zeros and note where its windows work.

        Args:
            network: The network; no window of it is changed yet.
            in_channels: Image bands.
            side: Height and width of the image, in pixels: a multiple of the network's own output stride.
        """
        self.network = network
        self.places = _find_places(network, in_channels, side)
        self.own_stride = max((place.after for place in self.places), default=1)

    def set(self, output_stride: int, *, rule: str = "exact", multi_grid: Sequence[int] = ()) -> None:
        """Build the network at an output stride.

        Args:
            output_stride: T; the network's own or smaller.
            rule: ``exact`` or ``uniform``.
            multi_grid: Multiplies the rates of the last stage's units, one number each.

        Raises:
            UsageError: The rule is unknown, a rate is not positive, or the last stage has not as many units.
        """
        if rule not in DILATION_RULES:
            raise UsageError(f"dilation_rule is 'exact' or 'uniform', got {rule!r}")
        stages = self._stages() if rule == "uniform" else {}
        grid = self._grid(multi_grid) if multi_grid else {}
        for place in self.places:
            before, after = min(place.before, output_stride), min(place.after, output_stride)
            if place.window is None:
                place.module.scale_factor = float(before / after)
                continue
            rate = place.before // before
            if rule == "uniform":
                rate = 1 if not place.is_spatial else max(rate, stages.get(place.name, 1) // output_stride)
            if place.is_spatial:
                rate *= grid.get(place.name, 1)
            stride = [_stride(own, place, before, after) for own in place.window.stride]
            set_window(place.module, place.window, rate=rate, stride=(stride[0], stride[1]))

    def _stages(self) -> Mapping[str, int]:
        """Give each module the stride that its stage leads to.

        A stage is the largest part of the network in which the stride changes once.
        """
        parts: dict[str, list[_Place]] = {}
        for place in self.places:
            path = place.name.split(".")
            for depth in range(1, len(path) + 1):
                parts.setdefault(".".join(path[:depth]), []).append(place)
        stages: dict[str, int] = {}
        for name in sorted(parts, key=lambda name: name.count(".")):  # outermost first
            strides = {stride for place in parts[name] for stride in (place.before, place.after)}
            if len(strides) <= 2:
                for place in parts[name]:
                    stages.setdefault(place.name, max(strides))
        return stages

    def _grid(self, multi_grid: Sequence[int]) -> Mapping[str, int]:
        """Give each convolution of the last stage the factor of its unit."""
        if any(rate < 1 for rate in multi_grid):
            raise UsageError(f"multi_grid rates must be at least 1, got {list(multi_grid)}")
        found: dict[str, int] = {}
        counts: set[int] = set()
        chosen = ""
        for name, module in self.network.named_modules():
            if (
                not name
                or not isinstance(module, (nn.Sequential, nn.ModuleList))
                or (chosen and name.startswith(chosen))
            ):
                continue
            units = self._units(name, module)
            if units:
                counts.add(len(units))
            if len(units) == len(multi_grid):
                chosen = f"{name}."
                found = {place.name: rate for unit, rate in zip(units, multi_grid, strict=True) for place in unit}
        if not found:
            numbers = ", ".join(map(str, sorted(counts))) or "none"
            raise UsageError(
                f"multi_grid needs one rate per unit of the last stage, got {list(multi_grid)}; "
                f"this backbone's last stage has units in groups of {numbers}"
            )
        return found

    def _units(self, name: str, module: nn.Module) -> list[list[_Place]]:
        """Split what lies in a container by its children, those that work at the own output stride alone."""
        units = []
        for child, _ in module.named_children():
            prefix = f"{name}.{child}"
            inside = [p for p in self.places if p.is_spatial and (p.name == prefix or p.name.startswith(f"{prefix}."))]
            if not inside:
                continue
            if max(place.after for place in inside) < self.own_stride:
                return []
            units.append(inside)
        return units


def _stride(own: int, place: _Place, before: int, after: int) -> int:
    """Give what is left of one axis' stride."""
    return (
        own if own == 1 or place.after == place.before else max(1, own * place.before * after // (place.after * before))
    )


@torch.no_grad()
def _find_places(network: nn.Module, in_channels: int, side: int) -> tuple[_Place, ...]:
    """Run the network once; modules in the order of their first call."""
    names = {module: name for name, module in network.named_modules()}
    places: dict[nn.Module, _Place] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if module in places or not inputs or not isinstance(inputs[0], Tensor) or inputs[0].ndim != 4:
            return
        before, after = (_nearest_power(side / tensor.shape[-2]) for tensor in (inputs[0], output))
        window = None if isinstance(module, nn.Upsample) else window_of(module)
        if window is None or max(*window.kernel, *window.stride) > 1:
            places[module] = _Place(names[module], module, window, before, after)

    handles = [
        module.register_forward_hook(note) for module in names if isinstance(module, nn.Upsample) or has_window(module)
    ]
    training = network.training
    network.eval()
    try:
        network(blank_image(network, in_channels, side, side))
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return tuple(places.values())


def _nearest_power(stride: float) -> int:
    return 1 << max(0, round(stride).bit_length() - 1)
