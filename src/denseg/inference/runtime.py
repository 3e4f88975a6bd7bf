# SPDX-License-Identifier: Apache-2.0
"""Tile plans and their blending: pure numpy, so that the same file runs beside an exported model.

An image of any size is computed in windows of one shape. What of each window's result is kept decides whether the
tiled result equals the whole one:

* ``halo``: only the core is kept, which no missing context can reach. Equal to the whole image.
* ``overlap_tile``: the model returns less than it sees (``margin``); missing context is mirrored. Equal to the whole.
* ``blend``: overlapping results are averaged with a smooth window, for models that see the whole image at once. An
  approximation, whose error :class:`SeamReport` measures.

Offsets are multiples of the model's stride, because pooling and strided layers start anew at each window's corner.
Sizes are ``(height, width)``, positions ``(row, column)``, all in pixels.
Shape letters: K classes (or any channels), H and W image height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

try:
    from denseg.errors import UsageError
except ImportError:  # the file stands alone beside an exported model

    class UsageError(ValueError):  # type: ignore[no-redef]
        """The call itself is wrong."""


__all__ = ["Blend", "SeamReport", "Tile", "TilePlan", "blend_window", "mirror", "plan_tiles", "read_padded", "run_plan"]

Array = npt.NDArray[Any]
Read = Callable[[int, int, int, int], Array]


class Tile(NamedTuple):
    """One window that the model sees, and the part of its result that is kept.

    Attributes:
        top: First row of the window; negative where it reaches above the image.
        left: First column of the window.
        height: Rows of the window.
        width: Columns of the window.
        core_top: First kept row, in the image.
        core_left: First kept column, in the image.
        core_height: Kept rows.
        core_width: Kept columns.
        crop_top: The same first row, in the model's result for this window.
        crop_left: The same first column, in the model's result for this window.
    """

    top: int
    left: int
    height: int
    width: int
    core_top: int
    core_left: int
    core_height: int
    core_width: int
    crop_top: int
    crop_left: int

    @property
    def core(self) -> tuple[slice, slice]:
        """Rows and columns of the image that this tile decides."""
        top, left = self.core_top, self.core_left
        return slice(top, top + self.core_height), slice(left, left + self.core_width)

    def crop(self, values: Array) -> Array:
        """Cut the kept part out of the model's result.

        Args:
            values: ``(…, h, w)``, the result for this window.

        Returns:
            ``(…, core_height, core_width)``, a view.
        """
        top, left = self.crop_top, self.crop_left
        return values[..., top : top + self.core_height, left : left + self.core_width]


@dataclass(frozen=True)
class TilePlan(Sequence[Tile]):
    """All tiles of one image, row by row; the cores cover every pixel of the image exactly once.

    Attributes:
        image: Height and width of the image.
        canvas: The image's size rounded up to ``multiple``: what the whole-image result is defined on.
        window: Height and width of every window.
        trim: Pixels dropped at each inner edge of a window's result.
        margin: Pixels that the model's result is smaller than its window on each side.
        multiple: Offsets of the windows are multiples of this.
        rows: Tiles in a column.
        columns: Tiles in a row.
        tiles: The tiles.
    """

    image: tuple[int, int]
    canvas: tuple[int, int]
    window: tuple[int, int]
    trim: int
    margin: int
    multiple: int
    rows: int
    columns: int
    tiles: tuple[Tile, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.tiles)

    @overload
    def __getitem__(self, index: int) -> Tile: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Tile, ...]: ...
    def __getitem__(self, index: int | slice) -> Tile | tuple[Tile, ...]:
        return self.tiles[index]

    @property
    def whole(self) -> bool:
        """Whether one window holds the whole image."""
        return len(self.tiles) == 1

    def __str__(self) -> str:
        """Say the plan in one line."""
        size = " x ".join(map(str, self.image))
        if self.whole:
            return f"{size} pixels in one window of {self.window[0]} x {self.window[1]}"
        seen = len(self.tiles) * self.window[0] * self.window[1] / (self.image[0] * self.image[1])
        windows = f"{len(self.tiles)} windows of {self.window[0]} x {self.window[1]} ({self.rows} x {self.columns})"
        lost = f"{self.trim + self.margin} pixels dropped at inner edges"
        return f"{size} pixels in {windows}, {lost}, {seen:.2f} times the pixels computed"


class _Span(NamedTuple):
    """One axis of a tile: offset of the window, first kept pixel and the pixel after the last."""

    offset: int
    start: int
    stop: int


def plan_tiles(
    height: int, width: int, *, tile: int | tuple[int, int], overlap: int, multiple: int = 1, margin: int = 0
) -> TilePlan:
    """Cover an image with windows of one shape.

    Args:
        height: Rows of the image.
        width: Columns of the image.
        tile: Side of the window, or height and width; rounded up to ``multiple`` (with a ``margin`` it must be a size
            that the model takes, and is kept). An image smaller than this gets one smaller window.
        overlap: Pixels that two neighbouring windows share, at least; half of it, rounded up to ``multiple``, is
            dropped at inner edges.
        multiple: The model's stride: windows lie at multiples of it.
        margin: Pixels that the model's result is smaller than its window on each side (the valid U-Net: 92). Windows
            then reach outside the image, where :func:`read_padded` mirrors it.

    Returns:
        The plan.

    Raises:
        UsageError: A size is below 1, or the tile is too small to keep anything.
    """
    tall, wide = (tile, tile) if isinstance(tile, int) else tile
    least = {"height": 1, "width": 1, "tile": 1, "overlap": 0, "multiple": 1, "margin": 0}
    values = {"height": height, "width": width, "tile": min(tall, wide)}
    values |= {"overlap": overlap, "multiple": multiple, "margin": margin}
    for name, value in values.items():
        if value < least[name]:
            raise UsageError(f"{name} must be at least {least[name]}, got {value}")
    trim = -(-max(0, -(-overlap // 2) - margin) // multiple) * multiple
    if margin == 0:
        tall, wide = _round_up(tall, multiple), _round_up(wide, multiple)
    needed = 2 * (trim + margin) + multiple
    if min(tall, wide) < needed:
        lost = f"{trim + margin} pixels are dropped on each side and {multiple} must remain"
        raise UsageError(f"a tile of {min(tall, wide)} is too small: {lost}; give at least {needed}")
    window_height, rows = _plan_axis(height, tall, trim, multiple, margin)
    window_width, columns = _plan_axis(width, wide, trim, multiple, margin)
    window = (window_height, window_width)
    tiles = tuple(_tile(row, column, window, margin) for row in rows for column in columns)
    canvas = _round_up(height, multiple), _round_up(width, multiple)
    return TilePlan((height, width), canvas, window, trim, margin, multiple, len(rows), len(columns), tiles)


def _tile(row: _Span, column: _Span, window: tuple[int, int], margin: int) -> Tile:
    core = (row.start, column.start, row.stop - row.start, column.stop - column.start)
    crop = (row.start - row.offset, column.start - column.offset)
    return Tile(row.offset - margin, column.offset - margin, *window, *core, *crop)


def _plan_axis(length: int, tile: int, trim: int, multiple: int, margin: int) -> tuple[int, list[_Span]]:
    """Plan one axis; give the window's size and its spans."""
    if margin:  # the smallest size of the model that still holds all
        tile -= max(0, tile - 2 * margin - length) // multiple * multiple
    else:
        tile = min(tile, _round_up(length, multiple))
    result = tile - 2 * margin
    step = result // multiple * multiple - 2 * trim
    spans = [_Span(0, 0, min(length, result))]
    while spans[-1].offset + result < length:
        last = spans[-1]
        start = last.offset + step + trim
        spans[-1] = last._replace(stop=start)
        offset = last.offset + step
        if not margin:  # the last window is shifted inwards, so that no window leaves the canvas
            offset = min(offset, _round_up(length, multiple) - tile)
        spans.append(_Span(offset, start, min(length, offset + result)))
    return tile, spans


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def mirror(start: int, stop: int, length: int) -> npt.NDArray[np.intp]:
    """Give the pixel that stands at each position when the image is mirrored at its borders, the edge not repeated.

    Args:
        start: First position; may be negative.
        stop: Position after the last.
        length: Pixels of the image on this axis.

    Returns:
        ``stop - start`` indices in ``0..length-1``.
    """
    period = max(1, 2 * (length - 1))
    index = np.arange(start, stop) % period
    return np.minimum(index, period - index) if length > 1 else np.zeros_like(index)


def read_padded(read: Read, tile: Tile, image: tuple[int, int], *, mirrored: bool) -> Array:
    """Read the window of a tile, filling what lies outside the image.

    Args:
        read: Called with ``(top, left, height, width)`` inside the image; gives ``(C, height, width)``.
        tile: Whose window to read.
        image: Height and width of the image.
        mirrored: Fill with the mirrored image (``overlap_tile``), else with 0.

    Returns:
        ``(C, tile.height, tile.width)``.
    """
    bottom, right = tile.top + tile.height, tile.left + tile.width
    if tile.top >= 0 and tile.left >= 0 and bottom <= image[0] and right <= image[1]:
        return read(tile.top, tile.left, tile.height, tile.width)
    if mirrored:
        rows, columns = mirror(tile.top, bottom, image[0]), mirror(tile.left, right, image[1])
        top, left = int(rows.min()), int(columns.min())
        part = read(top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1)
        return part[:, (rows - top)[:, None], (columns - left)[None, :]]
    top, left = max(0, tile.top), max(0, tile.left)
    part = read(top, left, min(bottom, image[0]) - top, min(right, image[1]) - left)
    window = np.zeros((part.shape[0], tile.height, tile.width), part.dtype)
    row, column = top - tile.top, left - tile.left
    window[:, row : row + part.shape[1], column : column + part.shape[2]] = part
    return window


def run_plan(
    plan: TilePlan, read: Read, compute: Callable[[Array], Array], *, batch: int = 1
) -> Iterator[tuple[Tile, Array]]:
    """Compute all windows of a plan in order.

    Args:
        plan: The plan.
        read: Called with ``(top, left, height, width)`` inside the image; gives ``(C, height, width)``.
        compute: Called with ``(B, C, height, width)``; gives ``(B, …, h, w)``: labels, probabilities or scores.
        batch: Windows computed together.

    Yields:
        Each tile with its uncropped result ``(…, h, w)``.
    """
    for first in range(0, len(plan), batch):
        tiles = plan[first : first + batch]
        windows = [read_padded(read, tile, plan.image, mirrored=plan.margin > 0) for tile in tiles]
        yield from zip(tiles, compute(np.stack(windows)), strict=True)


def blend_window(size: int, *, shape: str = "gaussian") -> npt.NDArray[np.float32]:
    """Give the weights of one axis of a window, largest in the middle.

    Args:
        size: Pixels.
        shape: ``gaussian`` (a standard deviation of one eighth of the size) or ``hann``.

    Returns:
        ``(size,)``, between 0.001 and 1; never 0, so that a lone window at the border still counts.

    Raises:
        UsageError: ``shape`` is neither.
    """
    place = (np.arange(size) + 0.5) / size  # 0..1, pixel centres
    if shape == "gaussian":
        weights = np.exp(-0.5 * ((place - 0.5) * 8) ** 2)
    elif shape == "hann":
        weights = np.sin(np.pi * place) ** 2
    else:
        raise UsageError(f"a blend window is 'gaussian' or 'hann', got {shape!r}")
    result: npt.NDArray[np.float32] = np.maximum(weights / weights.max(), 1e-3).astype(np.float32)
    return result


@dataclass
class SeamReport:
    """How much overlapping windows disagree: the error that blending hides.

    Attributes:
        pixels: Pixels seen by more than one window, counted once per further window.
        differing: Those whose most probable class differs from what the windows before said.
        total: Sum over them of the largest difference of a class's value.
        largest: Largest difference of a class's value.
    """

    pixels: int = 0
    differing: int = 0
    total: float = 0.0
    largest: float = 0.0

    @property
    def share(self) -> float:
        """Share of the compared pixels with another label, 0..1."""
        return self.differing / self.pixels if self.pixels else 0.0

    @property
    def mean(self) -> float:
        """Mean largest difference of a compared pixel."""
        return self.total / self.pixels if self.pixels else 0.0


class Blend:
    """Average overlapping windows with a smooth weight, one row of windows in memory at a time.

    Attributes:
        seams: What the windows disagreed about so far.
    """

    def __init__(
        self, plan: TilePlan, channels: int, *, shape: str = "gaussian", seams: SeamReport | None = None
    ) -> None:
        """Prepare the band of rows that is being summed.

        Args:
            plan: A plan without ``margin``; windows come in its order.
            channels: K, values per pixel (probabilities of the classes).
            shape: See :func:`blend_window`.
            seams: The report to fill; a new one if ``None``.
        """
        self.plan = plan
        self.seams = SeamReport() if seams is None else seams
        height, width = plan.window
        self._weight = blend_window(height, shape=shape)[:, None] * blend_window(width, shape=shape)  # (h, w)
        self._sum = np.zeros((channels, height, plan.canvas[1]), np.float32)
        self._mass = np.zeros((height, plan.canvas[1]), np.float32)
        self._top = 0
        self._count = 0

    def add(self, tile: Tile, values: Array) -> Iterator[tuple[int, Array]]:
        """Add the next window.

        Args:
            tile: The next tile of the plan.
            values: ``(K, h, w)``, its probabilities, uncropped.

        Yields:
            First row and ``(K, rows, W)`` of the rows that no further window touches.
        """
        columns = slice(tile.left, tile.left + tile.width)
        total, mass = self._sum[:, :, columns], self._mass[:, columns]
        before = mass > 0
        if before.any():
            old = total[:, before] / mass[before]
            new = values[:, before]
            gap = np.abs(old - new).max(axis=0)
            self.seams.pixels += gap.size
            self.seams.differing += int((old.argmax(axis=0) != new.argmax(axis=0)).sum())
            self.seams.total += float(gap.sum(dtype=np.float64))
            self.seams.largest = max(self.seams.largest, float(gap.max()))
        total += values * self._weight
        mass += self._weight
        self._count += 1
        if self._count % self.plan.columns == 0:
            done = self._count == len(self.plan)
            until = self.plan.image[0] if done else self.plan[self._count].top
            yield self._flush(until)

    def _flush(self, until: int) -> tuple[int, Array]:
        top, rows, width = self._top, until - self._top, self.plan.image[1]
        finished = self._sum[:, :rows, :width] / self._mass[:rows, :width]
        for buffer in (self._sum, self._mass):
            keep = buffer[..., rows:, :].copy()
            buffer[...] = 0
            buffer[..., : keep.shape[-2], :] = keep
        self._top = until
        return top, finished
