# SPDX-License-Identifier: Apache-2.0
"""How each tensor operation joins positions: which places of its input one place of its output is made from.

Every operation that networks are made of treats rows and columns alike and apart, so a step along each axis says it
all. What is not known to keep positions apart counts as joining all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["EVERYTHING", "Step", "steps_of"]

Marks = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Step:
    """Along one axis: the places of the input that each place of the output is made from.

    Attributes:
        sources: ``(places of the output, n)``, -1 for none; ``None``: the place itself.
        everything: Every place is made from all.
    """

    sources: NDArray[np.int64] | None = None
    everything: bool = False

    def back(self, marks: Marks, axis: int, size: int) -> Marks:
        """Carry marks from output to input.

        Args:
            marks: Over the output.
            axis: Of ``marks``.
            size: Places of the input.

        Returns:
            Marks over the input.
        """
        if not self.everything and self.sources is None:
            return marks
        shape = tuple(size if place == axis else side for place, side in enumerate(marks.shape))
        if self.everything:
            return np.broadcast_to(marks.any(axis=axis, keepdims=True), shape).copy()
        moved = np.moveaxis(marks, axis, 0)
        found = np.zeros((size, *moved.shape[1:]), dtype=bool)
        there = np.flatnonzero(moved.reshape(len(moved), -1).any(axis=1))
        for column in (self.sources if self.sources is not None else np.zeros((0, 0), np.int64))[there].T:
            kept = column >= 0
            np.logical_or.at(found, column[kept], moved[there[kept]])
        return np.moveaxis(found, 0, axis)


SAME = Step()
EVERYTHING = Step(everything=True)

_MIXING = {  # same shape in and out, yet positions are joined or moved
    "cumsum",
    "cumprod",
    "flip",
    "roll",
    "sort",
    "rot90",
    "linalg_vector_norm",
}
_SHAPING = {"view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "expand", "permute", "transpose", "t", "alias"}


def steps_of(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], source: Tensor, output: Tensor
) -> tuple[Step, Step]:
    """Say how an operation makes one of its results from one of its tensors.

    Args:
        func: The operation, of ``torch.ops.aten``.
        args: Its arguments.
        kwargs: Those by name.
        source: One of its tensors.
        output: One of its results.

    Returns:
        A step for rows and one for columns: the last two axes.
    """
    name = func._schema.name.split("::")[1].rstrip("_") if "::" in func._schema.name else str(func)
    if source.ndim < 2 or output.ndim < 2:
        return EVERYTHING, EVERYTHING
    named = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)} | dict(kwargs)
    for argument in func._schema.arguments:
        if argument.name not in named and argument.has_default_value():
            named[argument.name] = argument.default_value
    sizes = [(int(source.shape[axis]), int(output.shape[axis])) for axis in (-2, -1)]
    rule = _RULES.get(name)
    if rule is not None:
        return rule(named, source, output, sizes)
    if name in _MIXING:
        return EVERYTHING, EVERYTHING
    if name in _SHAPING:
        return (SAME, SAME) if _keeps_plane(name, named, source, output) else (EVERYTHING, EVERYTHING)
    if name in {"bmm", "mm", "addmm", "baddbmm", "matmul", "einsum"} or "attention" in name:
        return EVERYTHING, EVERYTHING
    if name in {"softmax", "_softmax", "log_softmax", "_log_softmax", "mean", "sum", "amax", "amin", "max", "min"}:
        return _reduced(named, source, sizes)
    # Elementwise: places stay; a single place is spread over all.
    return tuple(  # type: ignore[return-value]
        SAME if before == after else EVERYTHING for before, after in sizes
    )


def _keeps_plane(name: str, named: Mapping[str, Any], source: Tensor, output: Tensor) -> bool:
    if source.shape[-2:] != output.shape[-2:]:
        return False
    if name == "permute":
        order = [axis % source.ndim for axis in named["dims"]]
        return order[-2:] == [source.ndim - 2, source.ndim - 1]
    if name == "transpose":
        return not {named["dim0"] % source.ndim, named["dim1"] % source.ndim} & {source.ndim - 2, source.ndim - 1}
    return name != "t"


def _reduced(named: Mapping[str, Any], source: Tensor, sizes: Sequence[tuple[int, int]]) -> tuple[Step, Step]:
    """A sum, a maximum or a softmax over some axes: those are joined, the others stay where the planes still match."""
    axes = named.get("dim")
    over = range(source.ndim) if axes is None or axes == [] else axes if isinstance(axes, (list, tuple)) else [axes]
    touched = {axis % source.ndim for axis in over}
    inner = {source.ndim - 2, source.ndim - 1}
    if touched & inner:
        return (
            EVERYTHING if source.ndim - 2 in touched or sizes[0][0] != sizes[0][1] else SAME,
            EVERYTHING if source.ndim - 1 in touched or sizes[1][0] != sizes[1][1] else SAME,
        )
    if any(before != after for before, after in sizes):
        return EVERYTHING, EVERYTHING
    return SAME, SAME


def _pair(value: Any, default: int = 1) -> tuple[int, int]:
    values = [default] if value is None or value == [] else value if isinstance(value, (list, tuple)) else [value]
    return int(values[0]), int(values[-1])


def _taps(size: tuple[int, int], kernel: int, stride: int, padding: int, dilation: int) -> Step:
    if kernel == 1 and stride == 1 and padding == 0:
        return SAME
    before, after = size
    places = np.arange(after)[:, None] * stride - padding + np.arange(kernel)[None] * dilation
    return Step(np.where((places >= 0) & (places < before), places, -1))


def _convolution(
    named: Mapping[str, Any], source: Tensor, output: Tensor, sizes: Sequence[tuple[int, int]]
) -> tuple[Step, Step]:
    weight = named["weight"]
    if source is weight or weight.ndim != 4:
        return EVERYTHING, EVERYTHING
    stride, padding, dilation = (_pair(named[key]) for key in ("stride", "padding", "dilation"))
    steps = []
    for axis in (0, 1):
        kernel, size = int(weight.shape[2 + axis]), sizes[axis]
        if named["transposed"]:
            # Place o of the output is made from i where o = i * stride - padding + tap * dilation.
            raised = np.arange(size[1])[:, None] + padding[axis] - np.arange(kernel)[None] * dilation[axis]
            places = raised // stride[axis]
            fits = (raised % stride[axis] == 0) & (places >= 0) & (places < size[0])
            steps.append(Step(np.where(fits, places, -1)))
        else:
            steps.append(_taps(size, kernel, stride[axis], padding[axis], dilation[axis]))
    return steps[0], steps[1]


def _pool(
    named: Mapping[str, Any], source: Tensor, output: Tensor, sizes: Sequence[tuple[int, int]]
) -> tuple[Step, Step]:
    kernel = _pair(named["kernel_size"])
    stride = kernel if named.get("stride") in (None, []) else _pair(named["stride"])
    padding, dilation = _pair(named.get("padding"), 0), _pair(named.get("dilation"), 1)
    return (
        _taps(sizes[0], kernel[0], stride[0], padding[0], dilation[0]),
        _taps(sizes[1], kernel[1], stride[1], padding[1], dilation[1]),
    )


def _adaptive(
    named: Mapping[str, Any], source: Tensor, output: Tensor, sizes: Sequence[tuple[int, int]]
) -> tuple[Step, Step]:
    steps = []
    for before, after in sizes:
        places = np.arange(after)
        first, last = places * before // after, -(-(places + 1) * before // after)
        columns = first[:, None] + np.arange(int((last - first).max()))[None]
        steps.append(Step(np.where(columns < last[:, None], columns, -1)))
    return steps[0], steps[1]


def _nearest(
    named: Mapping[str, Any], source: Tensor, output: Tensor, sizes: Sequence[tuple[int, int]]
) -> tuple[Step, Step]:
    rows, columns = (
        Step(np.minimum(np.arange(after) * before // after, before - 1)[:, None]) for before, after in sizes
    )
    return rows, columns


def _linear(
    named: Mapping[str, Any], source: Tensor, output: Tensor, sizes: Sequence[tuple[int, int]]
) -> tuple[Step, Step]:
    steps = []
    for before, after in sizes:
        place = np.arange(after)
        if named.get("align_corners"):
            where = place * ((before - 1) / (after - 1) if after > 1 else 0.0)
        else:
            where = np.maximum((place + 0.5) * before / after - 0.5, 0)
        low = np.minimum(np.floor(where).astype(np.int64), before - 1)
        high = np.where(where - low > 1e-9, np.minimum(low + 1, before - 1), -1)
        steps.append(Step(np.stack([low, high], axis=1)))
    return steps[0], steps[1]


def _padded(
    named: Mapping[str, Any], source: Tensor, output: Tensor, sizes: Sequence[tuple[int, int]]
) -> tuple[Step, Step]:
    amounts = list(named.get("pad") or named.get("padding") or [])
    steps = []
    for axis, (before, after) in enumerate(sizes):
        start = 2 * (1 - axis)  # the last axis comes first
        first = int(amounts[start]) if start < len(amounts) else 0
        places = np.arange(after) - first
        steps.append(Step(np.where((places >= 0) & (places < before), places, -1)[:, None]))
    return steps[0], steps[1]


def _mirrored(
    named: Mapping[str, Any], source: Tensor, output: Tensor, sizes: Sequence[tuple[int, int]]
) -> tuple[Step, Step]:
    amounts = list(named["padding"])
    steps = []
    for axis, (before, _) in enumerate(sizes):
        start = 2 * (1 - axis)
        around = (int(amounts[start]), int(amounts[start + 1]))
        steps.append(Step(np.pad(np.arange(before), around, mode="reflect")[:, None]))
    return steps[0], steps[1]


def _replicated(
    named: Mapping[str, Any], source: Tensor, output: Tensor, sizes: Sequence[tuple[int, int]]
) -> tuple[Step, Step]:
    amounts = list(named["padding"])
    rows, columns = (
        Step(np.pad(np.arange(before), (int(amounts[2 - 2 * axis]), int(amounts[3 - 2 * axis])), mode="edge")[:, None])
        for axis, (before, _) in enumerate(sizes)
    )
    return rows, columns


def _sliced(
    named: Mapping[str, Any], source: Tensor, output: Tensor, sizes: Sequence[tuple[int, int]]
) -> tuple[Step, Step]:
    axis = int(named.get("dim", 0)) % source.ndim - (source.ndim - 2)
    if axis < 0:
        return (SAME, SAME) if source.shape[-2:] == output.shape[-2:] else (EVERYTHING, EVERYTHING)
    before, after = sizes[axis]
    start = int(named.get("start") or 0)
    start = max(start + before, 0) if start < 0 else start
    step = Step((start + np.arange(after) * int(named.get("step") or 1))[:, None])
    return (step, SAME) if axis == 0 else (SAME, step)


def _joined(
    named: Mapping[str, Any], source: Tensor, output: Tensor, sizes: Sequence[tuple[int, int]]
) -> tuple[Step, Step]:
    axis = int(named.get("dim", 0)) % source.ndim - (source.ndim - 2)
    if axis < 0:
        return SAME, SAME
    return EVERYTHING, EVERYTHING


def _stacked(
    named: Mapping[str, Any], source: Tensor, output: Tensor, sizes: Sequence[tuple[int, int]]
) -> tuple[Step, Step]:
    kept = source.shape[-2:] == output.shape[-2:] and int(named.get("dim", 0)) % output.ndim < output.ndim - 2
    return (SAME, SAME) if kept else (EVERYTHING, EVERYTHING)


_Rule = Callable[[Mapping[str, Any], Tensor, Tensor, Sequence[tuple[int, int]]], tuple[Step, Step]]

_RULES: Mapping[str, _Rule] = {
    "convolution": _convolution,
    "max_pool2d_with_indices": _pool,
    "avg_pool2d": _pool,
    "_adaptive_avg_pool2d": _adaptive,
    "adaptive_max_pool2d": _adaptive,
    "upsample_nearest2d": _nearest,
    "upsample_bilinear2d": _linear,
    "constant_pad_nd": _padded,
    "reflection_pad2d": _mirrored,
    "replication_pad2d": _replicated,
    "slice": _sliced,
    "cat": _joined,
    "stack": _stacked,
}
