# SPDX-License-Identifier: Apache-2.0
"""The theoretical receptive field: the pixels that a score can depend on, read off the network's operations.

Definition:
    The network runs on torch's ``meta`` device, which knows shapes only, and every operation is written down. From one
    score the marks go back: a convolution marks its taps, a pool its window, an interpolation its neighbours, what
    joins positions at will (attention, global pooling) everything. Weights play no part. The size is the distance from
    the first to the last marked pixel along an axis, the largest of all scores and both axes; the coverage is the share
    of the positions in the marked rectangle that are marked: where dilations leave holes it is below 1.

Shape letters: H and W image height and width, m the model's total stride.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from denseg.models.complexity import on_meta
from denseg.models.field_steps import EVERYTHING, Step, steps_of
from denseg.models.interface import SegmentationModel

__all__ = ["ReceptiveField", "receptive_field"]

Marks = NDArray[np.bool_]

LONGEST = 4096
"""Pixels; a model that reaches the ends of a longer image counts as seeing all of it."""
SHORT = 256
"""Pixels; on so large an image it is seen whether something joins all positions."""
_PLANE = 2048  # largest side of the marked rectangle whose coverage is counted


class ReceptiveField(NamedTuple):
    """What a score can depend on.

    Attributes:
        size: Pixels from first to last, the larger of both axes; ``None`` where it is the whole image.
        height: Along the rows.
        width: Along the columns.
        coverage: Share of the positions in it that count; 1 without holes.
        marks: ``(height, width)``, which ones, for the score with the largest field; ``None`` for the whole image.
    """

    size: int | None
    height: int | None
    width: int | None
    coverage: float
    marks: Marks | None

    @property
    def whole_image(self) -> bool:
        """Whether a score depends on pixels however far away."""
        return self.size is None

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON values, without the marks."""
        return {
            "size": self.size,
            "height": self.height,
            "width": self.width,
            "coverage": round(self.coverage, 6),
            "whole_image": self.whole_image,
        }


def receptive_field(model: SegmentationModel) -> ReceptiveField:
    """Find the theoretical receptive field of a model's scores.

    Args:
        model: A network of ``create_model``, on any device, ``meta`` too; left as it is.

    Returns:
        The field.
    """
    geometry = model.geometry
    stride, margin = geometry.total_stride, geometry.margin
    small = _Trace(model, _side(model, SHORT))
    place = small.side // 2 - margin
    for axis in (0, 1):
        small.line(axis, place)
    if small.joined:
        return ReceptiveField(None, None, None, 1.0, None)
    trace = _Trace(model, _side(model, LONGEST))
    middle = trace.side // 2 // stride * stride
    best: list[tuple[int, int]] = []  # per axis the largest span and the phase of its score
    for axis in (0, 1):
        spans = []
        for phase in range(stride):
            line = trace.line(axis, middle + phase - margin)
            places = np.flatnonzero(line)
            if not places.size:
                spans.append((0, phase))
                continue
            low, high = int(places[0]), int(places[-1])
            if not margin and (low < stride or high >= trace.side - stride):
                return ReceptiveField(None, None, None, 1.0, None)
            spans.append((high - low + 1, phase))
        best.append(max(spans, key=lambda item: (item[0], -item[1])))
    (height, row), (width, column) = best
    if max(height, width) > _PLANE:
        return ReceptiveField(max(height, width), height, width, 1.0, None)
    trace = _Trace(model, _side(model, 2 * max(height, width) + 4 * stride))
    middle = trace.side // 2 // stride * stride
    plane = trace.plane(middle + row - margin, middle + column - margin)
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    if not rows.size:
        return ReceptiveField(0, 0, 0, 0.0, None)
    marks = plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return ReceptiveField(max(height, width), height, width, float(marks.mean()), marks)


def _side(model: SegmentationModel, wanted: int) -> int:
    """The next side that the model takes, a multiple of its stride where it takes any."""
    geometry = model.geometry
    if geometry.size_step > 1 or geometry.margin:
        steps = max(0, -(-(max(wanted, geometry.min_size) - geometry.size_offset) // geometry.size_step))
        return geometry.size_offset + geometry.size_step * steps
    stride = geometry.total_stride
    return -(-max(wanted, geometry.min_size) // stride) * stride


class _Node(NamedTuple):
    """One result: where it comes from, how its marks go back along each axis, and its height and width."""

    parents: tuple[tuple[int, tuple[Step, Step]], ...]
    size: tuple[int, int]


class _Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operations of one forward pass, from the image to the scores."""

    def __init__(self, model: SegmentationModel, side: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.side = side
        self.joined = False  # whether a way back led through what joins all positions
        self.nodes: list[_Node] = [_Node((), (side, side))]
        shadow = on_meta(model).eval()
        dtype = next((value.dtype for value in model.parameters()), torch.float32)
        images = torch.empty(1, model.in_channels, side, side, dtype=dtype, device="meta")
        self._known: dict[int, int] = {id(images): 0}
        self._alive: list[Any] = [images]  # an id must not be given away again
        with torch.no_grad(), self:
            scores = shadow(images).logits
        self.last = self._known[id(scores)]
        self._alive.clear()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        sources = [
            value
            for value in tree_leaves([args, kwargs or {}])
            if isinstance(value, Tensor) and id(value) in self._known
        ]
        if not sources:
            return result
        for output in tree_leaves(result):
            if not isinstance(output, Tensor):
                continue
            parents = [
                (self._known[id(source)], steps_of(func, args, kwargs or {}, source, output)) for source in sources
            ]
            self._add(output, parents)
            if func._schema.is_mutable and output.untyped_storage().nbytes() > output.nbytes:
                self._spread(output)
        return result

    def _add(self, output: Tensor, parents: Sequence[tuple[int, tuple[Step, Step]]]) -> None:
        size = (int(output.shape[-2]), int(output.shape[-1])) if output.ndim >= 2 else (1, 1)
        self.nodes.append(_Node(tuple(parents), size))
        self._known[id(output)] = len(self.nodes) - 1
        self._alive.append(output)

    def _spread(self, view: Tensor) -> None:
        """What was written into a part of a tensor is in the whole of it, too."""
        written = self._known[id(view)]
        place = view.untyped_storage()._cdata
        for other in list(self._alive):
            if other is not view and other.untyped_storage()._cdata == place and id(other) in self._known:
                both = [(self._known[id(other)], (Step(), Step())), (written, (EVERYTHING, EVERYTHING))]
                self._add(other, both)

    def line(self, axis: int, place: int) -> Marks:
        """Mark along one axis of the image what the score at a place of it depends on."""
        start = np.zeros(self.nodes[self.last].size[axis], dtype=bool)
        start[place] = True
        return self._back(start, (axis,))

    def plane(self, row: int, column: int) -> Marks:
        """Mark in the image, ``(H, W)``, what one score depends on."""
        start = np.zeros(self.nodes[self.last].size, dtype=bool)
        start[row, column] = True
        return self._back(start, (0, 1))

    def _back(self, start: Marks, axes: tuple[int, ...]) -> Marks:
        marks: dict[int, Marks] = {self.last: start}
        shape = tuple(self.nodes[0].size[axis] for axis in axes)
        for number in range(self.last, 0, -1):
            marked = marks.pop(number, None)
            if marked is None:
                continue
            for parent, steps in self.nodes[number].parents:
                size = self.nodes[parent].size
                moved = marked
                for place, axis in enumerate(axes):
                    self.joined |= steps[axis].everything and self.nodes[number].size[axis] > 1
                    moved = steps[axis].back(moved, place, size[axis])
                known = marks.get(parent)
                marks[parent] = moved if known is None else known | moved
        return marks.get(0, np.zeros(shape, dtype=bool))
