# SPDX-License-Identifier: Apache-2.0
"""What a model costs: parameters and multiply-adds, whole and by layer.

One multiply-add (MAC) is one multiplication and one addition in a convolution, a linear layer or a matrix product;
norms, activations, pools and interpolations are not counted. Nothing is computed: the model runs on torch's ``meta``
device, which knows shapes only.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from denseg.errors import UsageError
from denseg.models.interface import SegmentationModel

__all__ = ["Complexity", "LayerCost", "count_macs", "count_parameters", "describe", "on_meta"]


class LayerCost(NamedTuple):
    """One row of the table.

    Attributes:
        name: Dotted name of the module; empty for what the model does outside its modules.
        type: Class of the module.
        input_size: Shape of the first input, ``(B, C, h, w)`` for maps.
        output_size: Shape of the first output.
        parameters: Parameters of the module itself, its children's aside; a shared one is counted where it comes first.
        macs: Multiply-adds of the module itself, its children's aside.
    """

    name: str
    type: str
    input_size: tuple[int, ...]
    output_size: tuple[int, ...]
    parameters: int
    macs: int


class Complexity(NamedTuple):
    """What one image costs.

    Attributes:
        parameters: All of them, learning or frozen.
        trainable: Those that learn.
        macs: Multiply-adds for one image.
        output_stride: Input pixels per position of the deepest map.
        layers: Every module with parameters or multiply-adds of its own, in the order of their first use.
    """

    parameters: int
    trainable: int
    macs: int
    output_stride: int
    layers: tuple[LayerCost, ...]


def count_parameters(model: nn.Module, *, trainable: bool = False) -> int:
    """Count parameters; a shared one once.

    Args:
        model: Any module.
        trainable: Only those that learn.

    Returns:
        Their number.
    """
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad or not trainable)


def count_macs(model: SegmentationModel, height: int, width: int) -> int:
    """Count the multiply-adds for one image, auxiliary classifiers included.

    Args:
        model: Any model; left as it is.
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Returns:
        Multiply-adds, half of what ``torch.utils.flop_counter`` counts.
    """
    return describe(model, (height, width)).macs


def describe(model: SegmentationModel, size: tuple[int, int]) -> Complexity:
    """Measure a model for one image of a size, whole and by layer.

    Args:
        model: Any model; left as it is.
        size: ``(height, width)`` of the image, in pixels.

    Returns:
        The totals and the table.

    Raises:
        UsageError: A side is less than 1 pixel.
    """
    if min(size) < 1:
        raise UsageError(f"an image has at least 1x1 pixels, got {size[0]}x{size[1]}")
    dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
    images = torch.empty(1, model.in_channels, *size, dtype=dtype, device="meta")
    shadow = on_meta(model)
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for name, module in shadow.named_modules(remove_duplicate=False):
        module.register_forward_hook(_recorder(name, shapes))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(images)
    root = type(model).__name__
    totals = {
        name.removeprefix(root).removeprefix("."): sum(flops.values()) // 2
        for name, flops in counter.get_flop_counts().items()
        if name != "Global"
    }
    layers = _rows(model, shapes, totals)
    return Complexity(
        parameters=count_parameters(model),
        trainable=count_parameters(model, trainable=True),
        macs=int(counter.get_total_flops()) // 2,
        output_stride=model.geometry.total_stride,
        layers=layers,
    )


def on_meta(model: nn.Module) -> nn.Module:
    """Copy a model without its values: parameters and buffers have shapes only."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def _rows(
    model: nn.Module, shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]], totals: dict[str, int]
) -> tuple[LayerCost, ...]:
    own = dict(totals)
    for name, total in totals.items():
        parent = name.rpartition(".")[0]
        while parent and parent not in totals:  # a container that is indexed, not called
            parent = parent.rpartition(".")[0]
        if name and parent in own:
            own[parent] -= total
    modules = dict(model.named_modules(remove_duplicate=False))
    seen: set[int] = set()
    rows = []
    for name in [*shapes, *(name for name in modules if name not in shapes)]:
        module = modules[name]
        fresh = [p for p in module.parameters(recurse=False) if id(p) not in seen]
        seen |= {id(parameter) for parameter in fresh}
        parameters = sum(parameter.numel() for parameter in fresh)
        if parameters or own.get(name, 0):
            before, after = shapes.get(name, ((), ()))
            rows.append(LayerCost(name, type(module).__name__, before, after, parameters, own.get(name, 0)))
    return tuple(rows)


def _recorder(name: str, shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> Any:
    def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        shapes.setdefault(name, (_shape(inputs), _shape(output)))

    return record


def _shape(value: Any) -> tuple[int, ...]:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, (tuple, list)) and value:
        return _shape(value[0])
    return ()
