# SPDX-License-Identifier: Apache-2.0
"""Tile plans and their blending: pure numpy, so that the same file runs beside an exported model.

An image of any size is computed in windows of one shape. What of each window's result is kept decides whether the
tiled result equals the whole one:

* ``halo``: only the core is kept, which no missing context can reach. Equal to the whole image.
* ``overlap_tile``: the model returns less than it sees (``margin``); missing context is mirrored. Equal to the whole.
* ``blend``: overlapping results are averaged with a smooth window, for models that see the whole image at once. An
  approximation, whose error :class:`SeamReport` measures.

Offsets are multiples of the model's stride, because pooling and strided layers start anew at each window's corner.
Sizes are ``(height, width)`` in pixels. Shape letters: K classes, H and W image height and width, h and w of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

try:
    from denseg.errors import UsageError
except ImportError:  # the file stands alone beside an exported model

    class UsageError(ValueError):  # type: ignore[no-redef]
        """The call itself is wrong."""


__all__ = ["Blend", "SeamReport", "Tile", "TilePlan", "plan_tiles", "read_padded", "round_up", "run_plan"]

Array = npt.NDArray[Any]
Read = Callable[[int, int, int, int], Array]


class Tile(NamedTuple):
    """One window that the model sees, and the part of its result that is kept.

    Attributes:
        top, left: First row and column of the window; negative where it reaches outside the image.
        height, width: Size of the window.
        core_top, core_left: First kept row and column, in the image.
        core_height, core_width: Size of the kept part.
        crop_top, crop_left: The first kept row and column, in the model's result for this window.
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
        """Cut the kept part out of the model's result ``(…, h, w)`` for this window; a view."""
        top, left = self.crop_top, self.crop_left
        return values[..., top : top + self.core_height, left : left + self.core_width]


@dataclass(frozen=True)
class TilePlan:
    """All tiles of one image, row by row; the cores cover every pixel of the image exactly once.

    Attributes:
        image, canvas: The image's size; the same rounded up to ``multiple``, which the whole result is defined on.
        window: Height and width of every window.
        trim: Pixels dropped at each inner edge of a window's result.
        margin: Pixels that the model's result is smaller than its window on each side.
        multiple: Offsets of the windows are multiples of this.
        rows, columns: Rows and columns of tiles.
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

    def __iter__(self) -> Iterator[Tile]:
        return iter(self.tiles)

    def __getitem__(self, index: int) -> Tile:
        return self.tiles[index]

    @property
    def whole(self) -> bool:
        """Whether one window holds the whole image."""
        return len(self.tiles) == 1

    def part(self, rows: range, columns: range) -> TilePlan:
        """Choose some rows and columns of tiles, each without a gap.

        Args:
            rows: Which rows of tiles.
            columns: Which columns of tiles.

        Returns:
            A plan of these tiles; their place in the image stays.
        """
        tiles = tuple(self.tiles[row * self.columns + column] for row in rows for column in columns)
        return replace(self, rows=len(rows), columns=len(columns), tiles=tiles)

    def __str__(self) -> str:
        """Say the plan in one line."""
        size = f"{self.image[0]} x {self.image[1]}"
        if self.whole:
            return f"{size} pixels in one window of {self.window[0]} x {self.window[1]}"
        seen = len(self.tiles) * self.window[0] * self.window[1] / (self.image[0] * self.image[1])
        windows = f"{len(self.tiles)} windows of {self.window[0]} x {self.window[1]} ({self.rows} x {self.columns})"
        lost = f"{self.trim + self.margin} pixels dropped at inner edges"
        return f"{size} pixels in {windows}, {lost}, {seen:.2f} times the pixels computed"


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
    positive = {"height": height, "width": width, "tile": min(tall, wide), "multiple": multiple}
    for name, value in (positive | {"overlap": overlap, "margin": margin}).items():
        if value < (name in positive):
            raise UsageError(f"{name} must be at least {int(name in positive)}, got {value}")
    trim = -(-max(0, -(-overlap // 2) - margin) // multiple) * multiple
    if margin == 0:
        tall, wide = round_up(tall, multiple), round_up(wide, multiple)
    needed = 2 * (trim + margin) + multiple
    if min(tall, wide) < needed:
        lost = f"{trim + margin} pixels are dropped on each side and {multiple} must remain"
        raise UsageError(f"a tile of {min(tall, wide)} is too small: {lost}; give at least {needed}")
    window_height, rows = _plan_axis(height, tall, trim, multiple, margin)
    window_width, columns = _plan_axis(width, wide, trim, multiple, margin)
    window = (window_height, window_width)
    tiles = tuple(
        Tile(
            *(row[0] - margin, column[0] - margin, *window),
            *(row[1], column[1], row[2] - row[1], column[2] - column[1]),
            *(row[1] - row[0], column[1] - column[0]),
        )
        for row in rows
        for column in columns
    )
    canvas = round_up(height, multiple), round_up(width, multiple)
    return TilePlan((height, width), canvas, window, trim, margin, multiple, len(rows), len(columns), tiles)


def _plan_axis(length: int, tile: int, trim: int, multiple: int, margin: int) -> tuple[int, list[tuple[int, int, int]]]:
    """Plan one axis: the window's size, and per tile its offset, the first kept pixel and the pixel after the last."""
    if margin:  # the smallest size of the model that still holds all
        tile -= max(0, tile - 2 * margin - length) // multiple * multiple
    else:
        tile = min(tile, round_up(length, multiple))
    result = tile - 2 * margin
    step = result // multiple * multiple - 2 * trim
    end = round_up(length - result % multiple, multiple) + result % multiple  # where the whole image's result ends
    spans = []
    offset = start = 0
    while offset + result < length:
        spans.append((offset, start, offset + step + trim))
        offset, start = offset + step, offset + step + trim
        if trim or not margin:  # the last window is shifted inwards, so that it ends where the whole image's does
            offset = min(offset, end - result)
    return tile, [*spans, (offset, start, length)]


def round_up(value: int, multiple: int) -> int:
    """Give the next multiple at or above a value."""
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


def read_padded(read: Read, tile: Tile, image: tuple[int, int], *, mirrored: bool, fill: float = 0.0) -> Array:
    """Read the window of a tile, filling what lies outside the image.

    Args:
        read: Called with ``(top, left, height, width)`` inside the image; gives ``(C, height, width)``.
        tile: Whose window to read.
        image: Height and width of the image.
        mirrored: Fill with the mirrored image (``overlap_tile``), else with ``fill``.
        fill: A value.

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
    above, before = top - tile.top, left - tile.left
    below, behind = tile.height - above - part.shape[1], tile.width - before - part.shape[2]
    return np.pad(part, ((0, 0), (above, below), (before, behind)), constant_values=fill)


def run_plan(
    plan: TilePlan, read: Read, compute: Callable[[Array], Array], *, batch: int = 1, fill: float = 0.0
) -> Iterator[tuple[Tile, Array]]:
    """Compute all windows of a plan in order; the next one is read meanwhile, by another thread.

    Args:
        plan: The plan.
        read: Called with ``(top, left, height, width)`` inside the image; gives ``(C, height, width)``.
        compute: Called with ``(B, C, height, width)``; gives ``(B, …, h, w)``: labels, probabilities or scores.
        batch: Windows computed together.
        fill: What stands outside the image, unless it is mirrored there.

    Yields:
        Each tile with its uncropped result ``(…, h, w)``.
    """
    groups = [plan.tiles[first : first + batch] for first in range(0, len(plan), batch)]
    if not groups:
        return
    with ThreadPoolExecutor(1) as pool:  # reads the next windows while these are computed

        def load(tiles: tuple[Tile, ...]) -> Array:
            windows = [read_padded(read, tile, plan.image, mirrored=plan.margin > 0, fill=fill) for tile in tiles]
            return np.stack(windows) if len(windows) > 1 else windows[0][None]

        following = pool.submit(load, groups[0])
        for index, tiles in enumerate(groups):
            windows = following.result()
            if index + 1 < len(groups):
                following = pool.submit(load, groups[index + 1])
            yield from zip(tiles, compute(windows), strict=True)


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
    if shape not in ("gaussian", "hann"):
        raise UsageError(f"a blend window is 'gaussian' or 'hann', got {shape!r}")
    place = (np.arange(size) + 0.5) / size  # 0..1, pixel centres
    weights = np.exp(-0.5 * ((place - 0.5) * 8) ** 2) if shape == "gaussian" else np.sin(np.pi * place) ** 2
    result: npt.NDArray[np.float32] = np.maximum(weights / weights.max(), 1e-3).astype(np.float32)
    return result


@dataclass
class SeamReport:
    """How much overlapping windows disagree: the error that blending hides.

    Attributes:
        pixels: Pixels seen by more than one window, counted once per further window.
        differing: Those whose most probable class differs from what the windows before said.
        total, largest: Sum over them, and maximum, of the largest difference of a class's value.
    """

    pixels: int = 0
    differing: int = 0
    total: float = 0.0
    largest: float = 0.0

    def compare(self, old: Array, new: Array) -> None:
        """Add pixels that two windows saw: ``(K, N)`` probabilities so far, and the next window's."""
        gap = np.abs(old - new).max(axis=0)
        self.pixels += gap.size
        self.differing += int((old.argmax(axis=0) != new.argmax(axis=0)).sum())
        self.total += float(gap.sum(dtype=np.float64))
        self.largest = max(self.largest, float(gap.max()))

    @property
    def share(self) -> float:
        """Share of the compared pixels with another label, 0..1."""
        return self.differing / self.pixels if self.pixels else 0.0

    @property
    def mean(self) -> float:
        """Mean over them of the largest difference."""
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
            plan: A plan without ``margin``, or a part of one; windows come in its order.
            channels: K, values per pixel (probabilities of the classes).
            shape: See :func:`blend_window`.
            seams: The report to fill; a new one if ``None``.
        """
        self.plan = plan
        self.seams = SeamReport() if seams is None else seams
        height, width = plan.window
        self._weight = blend_window(height, shape=shape)[:, None] * blend_window(width, shape=shape)  # (h, w)
        self._top, self._left = plan[0].top, plan[0].left
        across = plan[-1].left + width - self._left
        self._sum = np.zeros((channels, height, across), np.float32)
        self._mass = np.zeros((height, across), np.float32)
        self._count = 0

    def add(self, tile: Tile, values: Array) -> Iterator[tuple[int, int, Array]]:
        """Add the next window.

        Args:
            tile: The next tile of the plan.
            values: ``(K, h, w)``, its probabilities, uncropped.

        Yields:
            First row, first column and ``(K, rows, columns)`` of the rows that no further window touches.
        """
        columns = slice(tile.left - self._left, tile.left - self._left + tile.width)
        total, mass = self._sum[:, :, columns], self._mass[:, columns]
        before = mass > 0
        if before.any():
            self.seams.compare(total[:, before] / mass[before], values[:, before])
        total += values * self._weight
        mass += self._weight
        self._count += 1
        if self._count % self.plan.columns == 0:
            done = self._count == len(self.plan)
            yield self._flush(tile.core_top + tile.core_height if done else self.plan[self._count].top)

    def _flush(self, until: int) -> tuple[int, int, Array]:
        """Give the rows above ``until`` and move the others up."""
        top, rows, width = self._top, until - self._top, min(self._mass.shape[1], self.plan.image[1] - self._left)
        finished = self._sum[:, :rows, :width] / self._mass[:rows, :width]
        for buffer in (self._sum, self._mass):
            keep = buffer[..., rows:, :].copy()
            buffer[...] = 0
            buffer[..., : keep.shape[-2], :] = keep
        self._top = until
        return top, self._left, finished
