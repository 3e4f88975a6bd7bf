# SPDX-License-Identifier: Apache-2.0
"""Exact tiles for networks that see the whole image: what they take from all of it are sums, and sums can be collected.

Image pooling, pyramid pooling and squeeze-excite are means over regions, channel attention is a Gram matrix, EM
attention a few sums per step. The tiles are run once per such quantity, only as far as the layer that asks for it, and
each adds the part of its core; with all of them known the network depends on a bounded surrounding again, and tiles
with a halo give what the whole image gives. Attention between all pairs of positions is no sum of that kind: such
networks are blended.

The quantities are met where they are computed, as calls of torch; no layer knows of this.

Shape letters: B batch, C channels, h and w height and width of a feature map, n bins per axis, N = h * w, K bases.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from denseg.errors import UnsupportedError
from denseg.inference.halo import Reach, measure_reach
from denseg.inference.runtime import Read, Tile, TilePlan, read_padded
from denseg.layers import ExpectationMaximizationAttention

__all__ = ["MOST_PASSES", "ExactImage", "measure_exact_reach"]

Array = npt.NDArray[Any]

MOST_PASSES = 8
"""Quantities of the whole image; a network with more, squeeze-excite in every block, would take too long."""

_active = threading.local()
_lock = threading.Lock()


class _Enough(Exception):  # noqa: N818 - no error: this window has given what it was asked for
    """A window has added its part to the next unknown quantity."""


class _Frozen:
    """Every quantity of the whole image is a constant: what remains is what the network does locally."""

    def __init__(self) -> None:
        self.count = 0

    def start(self) -> None:
        self.count = 0

    def pool(self, x: Tensor, bins: int) -> Tensor:
        self.count += 1
        return x.new_zeros((*x.shape[:2], bins, bins))

    def gram(self, rows: Tensor) -> Tensor:
        self.count += 1
        return rows.new_zeros((rows.shape[0], rows.shape[1], rows.shape[1]))

    def bases(self, layer: ExpectationMaximizationAttention, rows: Tensor) -> tuple[Tensor, Tensor]:
        self.count += layer.iterations
        bases = layer.bases.to(rows.dtype).expand(rows.shape[0], -1, -1)
        return bases, torch.softmax(rows.transpose(1, 2) @ bases, dim=2)

    def grow(self, x: Tensor, size: tuple[int, int], align: bool) -> Tensor | None:
        return None


class _Collected:
    """The quantities of one image: those that are known, and the sum of the one that is being collected."""

    def __init__(self, plan: TilePlan) -> None:
        self.plan = plan
        self.known: list[Tensor] = []
        self.total: Tensor | None = None
        self._tile = plan[0]
        self._index = 0
        self._bins: set[int] = set()

    def start(self, tile: Tile) -> None:
        self._tile, self._index = tile, 0

    def pool(self, x: Tensor, bins: int) -> Tensor:
        self._bins.add(bins)
        (rows, columns), (top, left), (tall, wide) = self._core(x.shape[2], x.shape[3])
        down, across = _members(top, rows, tall, bins, x), _members(left, columns, wide, bins, x)  # (n, rows)
        counts = _counts(tall, bins, x)[:, None] * _counts(wide, bins, x)

        def part() -> Tensor:
            means: Tensor = down @ x[:, :, rows, columns].double() @ across.T / counts
            return means

        return self._ask(part).to(x.dtype)  # (B, C, n, n)

    def gram(self, rows: Tensor) -> Tensor:
        height, width = self._map_size(rows.shape[2])
        (down, across), _, _ = self._core(height, width)

        def part() -> Tensor:
            inside = rows.view(*rows.shape[:2], height, width)[:, :, down, across].flatten(2).double()
            return inside @ inside.transpose(1, 2)

        return self._ask(part).to(rows.dtype)  # (B, C, C)

    def bases(self, layer: ExpectationMaximizationAttention, rows: Tensor) -> tuple[Tensor, Tensor]:
        height, width = self._map_size(rows.shape[2])
        (down, across), _, _ = self._core(height, width)
        bases = layer.bases.to(rows.dtype).expand(rows.shape[0], -1, -1)  # (B, C, K)
        shares = rows.new_empty(0)
        for _ in range(layer.iterations):
            shares = torch.softmax(rows.transpose(1, 2) @ bases, dim=2)  # (B, N, K)

            def part(shares: Tensor = shares) -> Tensor:
                kept = [
                    values.reshape(*values.shape[:2], height, width)[:, :, down, across].flatten(2).double()
                    for values in (rows, shares.transpose(1, 2))
                ]
                weighted = kept[0] @ kept[1].transpose(1, 2)  # (B, C, K)
                return torch.cat([weighted, kept[1].sum(dim=2)[:, None]], dim=1)  # (B, C + 1, K)

            found = self._ask(part)
            bases = F.normalize(found[:, :-1] / (1e-6 + found[:, -1:]), dim=1).to(rows.dtype)
        return bases, shares

    def grow(self, x: Tensor, size: tuple[int, int], align: bool) -> Tensor | None:
        """Bring a grid of regions to this window's part of the whole map."""
        if x.shape[2] != x.shape[3] or x.shape[2] not in self._bins or x.shape[2] == 1:
            return None
        _, _, (tall, wide) = self._core(*size)
        stride = self._tile.height // size[0]
        down = _linear(x.shape[2], tall, self._tile.top // stride, size[0], align, x)
        across = _linear(x.shape[3], wide, self._tile.left // stride, size[1], align, x)
        return down @ x @ across.T

    def _ask(self, part: Callable[[], Tensor]) -> Tensor:
        if self._index < len(self.known):
            self._index += 1
            return self.known[self._index - 1]
        value = part()
        self.total = value if self.total is None else self.total + value
        raise _Enough

    def _map_size(self, positions: int) -> tuple[int, int]:
        stride = round((self._tile.height * self._tile.width / positions) ** 0.5)
        return self._tile.height // stride, self._tile.width // stride

    def _core(self, height: int, width: int) -> tuple[tuple[slice, slice], tuple[int, int], tuple[int, int]]:
        """Where this window's core lies on its feature map and on the whole one, and the size of the latter."""
        tile, plan = self._tile, self.plan
        stride = tile.height // height
        if tile.height != stride * height or tile.width != stride * width:
            raise UnsupportedError("a feature map does not divide the window: no exact tiles for this model")
        spans, starts = [], []
        for first, length, offset, side, end in (
            (tile.core_top, tile.core_height, tile.top, plan.image[0], plan.canvas[0]),
            (tile.core_left, tile.core_width, tile.left, plan.image[1], plan.canvas[1]),
        ):
            last = end if first + length == side else first + length  # the last core takes the filled-up border, too
            spans.append(slice((first - offset) // stride, (last - offset) // stride))
            starts.append(first // stride)
        whole = plan.canvas[0] // stride, plan.canvas[1] // stride
        return (spans[0], spans[1]), (starts[0], starts[1]), whole


class _Meeting(TorchFunctionMode):
    """Meets the calls of torch that take something from the whole map."""

    def __init__(self, state: _Frozen | _Collected) -> None:
        super().__init__()
        self.state = state

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        x = args[0] if args else None
        if isinstance(x, Tensor) and x.ndim == 4 and name in {"mean", "adaptive_avg_pool2d"}:
            bins = _bins_of(name, args[1:], kwargs)
            if bins is not None:
                pooled = self.state.pool(x, bins)
                keep = name != "mean" or bool(kwargs.get("keepdim", args[2] if len(args) > 2 else False))
                return pooled if keep else pooled[:, :, 0, 0]
        if isinstance(x, Tensor) and name in {"matmul", "__matmul__", "bmm"} and _is_gram(args):
            return self.state.gram(x)
        if name == "interpolate" and isinstance(x, Tensor) and x.ndim == 4:
            size = kwargs.get("size", args[1] if len(args) > 1 else None)
            mode = kwargs.get("mode", args[3] if len(args) > 3 else "nearest")
            if size is not None and mode == "bilinear":
                grown = self.state.grow(x, (int(size[0]), int(size[1])), bool(kwargs.get("align_corners")))
                if grown is not None:
                    return grown
        return func(*args, **kwargs)


def _bins_of(name: str, positional: Any, kwargs: Any) -> int | None:
    """Bins per axis of a call that pools the whole map; ``None`` for another call."""
    if name == "mean":
        axes = kwargs.get("dim", positional[0] if positional else None)
        if isinstance(axes, (tuple, list)) and sorted(axis % 4 for axis in axes) == [2, 3]:
            return 1
        return None
    size = kwargs.get("output_size", positional[0] if positional else None)
    sides = (size, size) if isinstance(size, int) else tuple(size or ())
    return int(sides[0]) if len(sides) == 2 and sides[0] == sides[1] and sides[0] is not None else None


def _is_gram(args: Any) -> bool:
    """Whether a product is that of rows ``(B, C, N)`` with themselves, over the positions."""
    if len(args) != 2 or not all(isinstance(value, Tensor) and value.ndim == 3 for value in args):
        return False
    rows, others = args
    same = rows.data_ptr() == others.data_ptr() and rows.shape == others.transpose(1, 2).shape
    return bool(same and rows.stride() == others.transpose(1, 2).stride() and rows.stride(2) == 1 < rows.shape[2])


class ExactImage:
    """One image through a network with global context, tile by tile."""

    def __init__(self, model: nn.Module, plan: TilePlan, read: Read) -> None:
        """Collect what the network takes from the whole image.

        Args:
            model: In evaluation mode.
            plan: Windows with the halo of :func:`measure_exact_reach`.
            read: Called with ``(top, left, height, width)`` inside the image; gives ``(C, height, width)`` float32.
        """
        self._model, self._plan, self._read = model, plan, read
        self._state = _Collected(plan)
        first = next(model.parameters(), None)
        self._device = torch.device("cpu") if first is None else first.device
        while not self._collect():
            pass

    @property
    def passes(self) -> int:
        """Quantities that were collected, each by a pass over the image."""
        return len(self._state.known)

    def scores(self, tile: Tile, windows: Array) -> Tensor:
        """Score one window as a part of the whole image.

        Args:
            tile: Which.
            windows: ``(1, C, h, w)``, its pixels.

        Returns:
            ``(1, K, h, w)`` logits.
        """
        self._state.start(tile)
        images = torch.from_numpy(np.ascontiguousarray(windows, np.float32)).to(self._device)
        with torch.inference_mode(), _at_work(self._model, self._state):
            logits: Tensor = self._model(images).logits
        return logits

    def _collect(self) -> bool:
        """Sum the next quantity over all windows; whether there is none."""
        self._state.total = None
        for tile in self._plan:
            window = read_padded(self._read, tile, self._plan.image, mirrored=False)
            try:
                self.scores(tile, window[None])
            except _Enough:
                continue
            return True
        if self._state.total is not None:
            self._state.known.append(self._state.total)
        return False


def measure_exact_reach(model: nn.Module, *, in_channels: int, multiple: int) -> tuple[Reach, int]:
    """Measure the halo of a network whose global quantities are known.

    Args:
        model: In evaluation mode.
        in_channels: C.
        multiple: The model's total stride.

    Returns:
        The reach, without a halo where tiles cannot be exact, and the number of quantities.
    """
    state = _Frozen()

    def scores(images: Tensor) -> Tensor:
        state.start()
        with _at_work(model, state):
            logits: Tensor = model(images).logits
        return logits

    device = next(model.parameters()).device
    with torch.inference_mode():
        scores(torch.zeros((1, in_channels, 2 * multiple, 2 * multiple), device=device))
    if state.count > MOST_PASSES:
        reason = f"{state.count} layers of the model see the whole image, more than {MOST_PASSES}"
        return Reach(None, reason), state.count
    reach = measure_reach(lambda images: scores(images.to(device)), in_channels=in_channels, multiple=multiple)
    return reach, state.count


@contextmanager
def _at_work(model: nn.Module, state: _Frozen | _Collected) -> Iterator[None]:
    """Meet every global quantity of a network in this thread."""
    layers = [module for module in model.modules() if isinstance(module, ExpectationMaximizationAttention)]
    if not layers:
        with _Meeting(state):
            yield
        return

    def iterate(layer: ExpectationMaximizationAttention, rows: Tensor) -> tuple[Tensor, Tensor]:
        mine = getattr(_active, "state", None)
        return type(layer).iterate(layer, rows) if mine is None else mine.bases(layer, rows)

    with _lock:
        for layer in layers:
            layer.iterate = lambda rows, layer=layer: iterate(layer, rows)  # type: ignore[method-assign, misc]
        _active.state = state
        try:
            with _Meeting(state):
                yield
        finally:
            _active.state = None
            for layer in layers:
                del layer.iterate


def _members(start: int, span: slice, size: int, bins: int, x: Tensor) -> Tensor:
    """Which bins the positions of a span belong to, ``(n, positions)``."""
    place = torch.arange(start, start + span.stop - span.start, device=x.device)
    first, last = _edges(size, bins, x)
    return ((place >= first[:, None]) & (place < last[:, None])).double()


def _counts(size: int, bins: int, x: Tensor) -> Tensor:
    first, last = _edges(size, bins, x)
    return (last - first).double()


def _edges(size: int, bins: int, x: Tensor) -> tuple[Tensor, Tensor]:
    index = torch.arange(bins, device=x.device)
    return index * size // bins, ((index + 1) * size + bins - 1) // bins


def _linear(bins: int, size: int, start: int, length: int, align: bool, x: Tensor) -> Tensor:
    """Rows ``start`` to ``start + length`` of the matrix that grows ``bins`` values to ``size`` linearly."""
    place = torch.arange(start, start + length, device=x.device, dtype=torch.float64)
    if align:
        source = place * ((bins - 1) / max(1, size - 1))
    else:
        source = ((place + 0.5) * (bins / size) - 0.5).clamp(0, bins - 1)
    low = source.floor().clamp(max=bins - 1).long()
    high = (low + 1).clamp(max=bins - 1)
    share = (source - low).clamp(0, 1)
    matrix = torch.zeros((length, bins), dtype=torch.float64, device=x.device)
    index = torch.arange(length, device=x.device)
    matrix[index, low] += 1 - share
    matrix[index, high] += share
    return matrix.to(x.dtype)
