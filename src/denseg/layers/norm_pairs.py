# SPDX-License-Identifier: Apache-2.0
"""Which batch norm follows which convolution, found by running the network, whatever its code looks like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["find_norm_pairs"]


def find_norm_pairs(network: nn.Module, images: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Find the convolutions whose output is what a batch norm takes, each of the two called once.

    Args:
        network: Run once, in the mode that it is in.
        images: ``(B, C, H, W)`` to run it on.

    Returns:
        The pairs, in the order of their use.
    """
    made: list[tuple[nn.Module, Tensor]] = []
    taken: list[tuple[nn.Module, nn.Module | None]] = []
    calls: dict[nn.Module, int] = {}

    def note_output(module: nn.Module, inputs: Any, output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        made.append((module, output))

    def note_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[module] = calls.get(module, 0) + 1
        taken.append((module, next((conv for conv, output in made if output is inputs[0]), None)))

    handles = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(note_output))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            handles.append(module.register_forward_pre_hook(note_input))
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return [
        (conv, norm)
        for norm, conv in taken
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and calls[conv] == calls[norm] == 1
    ]
