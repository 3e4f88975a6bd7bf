# SPDX-License-Identifier: Apache-2.0
"""One sampling grid for all geometry of augmentation, sampled once and only for the crop that is needed.

Coordinates measure from the image's top left corner in pixels: pixel ``(row, column)`` covers
``[row, row + 1) x [column, column + 1)`` and its centre lies at half. A warp asks, for the centre of each output
pixel, where in the source it lies; its steps (crop, scale, flip, turn, elastic, …, see ``steps.py``) are composed
before anything is sampled. Images and per-pixel maps are interpolated, masks take the pixel that the position falls
into, and a position outside the source is outside for all of them alike. A step that treats rows and columns apart
keeps the grid apart (``(h, 1)`` and ``(1, w)``); a step that mixes them gives a full grid. Crops, flips and quarter
turns copy pixels exactly.

Shape letters: H and W source height and width, h and w output height and width, C bands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from denseg.data.samples.steps import Grid, MatrixStep, Step, project
from denseg.errors import ShapeError

__all__ = ["Interpolation", "Warp", "sample_image", "sample_labels"]

Positions = NDArray[np.float64]
Index = NDArray[np.int64]
Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class Warp:
    """All geometry of one sample.

    Attributes:
        size: ``(h, w)`` of the output, in pixels.
        steps: In the order in which positions pass them, from output to source: the last thing that is done to the
            picture comes first.
    """

    size: tuple[int, int]
    steps: tuple[Step, ...] = ()

    def grid(self) -> Grid:
        """Compose the steps.

        Returns:
            Source position of each output pixel's centre.
        """
        height, width = self.size
        rows: Positions = np.arange(height, dtype=np.float64) + 0.5
        columns: Positions = np.arange(width, dtype=np.float64) + 0.5
        grid = Grid(rows[:, None], columns[None, :])
        matrix = np.eye(3)  # of the steps that wait to be applied
        for step in self.steps:
            if isinstance(step, MatrixStep):
                matrix = step.matrix @ matrix
            else:
                grid, matrix = step(project(matrix, grid)), np.eye(3)
        return project(matrix, grid)


def sample_labels(labels: NDArray[Any], grid: Grid, *, fill: int) -> NDArray[Any]:
    """Take the source pixel that each position falls into.

    Args:
        labels: ``(H, W)`` integers; not changed.
        grid: The positions.
        fill: Value outside the source, the ignore index; the dtype must hold it.

    Returns:
        ``(h, w)`` of the same dtype, contiguous.

    Raises:
        ShapeError: ``labels`` is not 2-D, or its dtype cannot hold ``fill``.
    """
    if labels.ndim != 2:
        raise ShapeError(f"labels must be (H, W), got {labels.shape}")
    if not np.iinfo(labels.dtype).min <= fill <= np.iinfo(labels.dtype).max:
        raise ShapeError(f"labels of {labels.dtype} cannot hold the fill value {fill}; give a wider integer type")
    if grid.crossed:
        labels, grid = labels.T, Grid(grid.columns, grid.rows)
    height, width = labels.shape
    rows = _clamp(np.floor(grid.rows).astype(np.int64), height)
    columns = _clamp(np.floor(grid.columns).astype(np.int64), width)
    if grid.separable:
        result = np.array(_take(_take(labels, rows[:, 0], axis=0), columns[0], axis=1), order="C")
    else:
        result = np.take(labels, rows * width + columns)
    outside = grid.outside(height, width)
    if outside is not None:
        result[outside] = fill
    return np.ascontiguousarray(result)


def sample_image(image: NDArray[Any], grid: Grid, *, interpolation: Interpolation = "bilinear") -> NDArray[Any]:
    """Interpolate; positions beyond the outermost pixel centres take the outermost pixels.

    Args:
        image: ``(H, W, C)`` or ``(H, W)``, any dtype; not changed.
        grid: The positions.
        interpolation: ``bilinear``, or ``bicubic``: cubic convolution (Keys, a = -0.75), which may overshoot.

    Returns:
        ``(h, w, C)`` or ``(h, w)`` float32, with the bands first in memory. Where all positions are pixel centres (a
        crop, a flip, a quarter turn), the pixels themselves in their own dtype, as a view of ``image`` where that is
        possible. What lies outside the source repeats its edge; ``Grid.outside`` marks it.
    """
    if grid.crossed:
        image, grid = image.swapaxes(0, 1), Grid(grid.columns, grid.rows)
    height, width = image.shape[:2]
    if grid.separable:
        rows, columns = np.floor(grid.rows[:, 0]), np.floor(grid.columns[0])
        if bool((grid.rows[:, 0] - rows == 0.5).all() and (grid.columns[0] - columns == 0.5).all()):
            across = _take(image, _clamp(rows.astype(np.int64), height), axis=0)
            return _take(across, _clamp(columns.astype(np.int64), width), axis=1)
    around = 1 if interpolation == "bilinear" else 2
    top, bottom = _reach(grid.rows, height, around)
    left, right = _reach(grid.columns, width, around)
    part = image[top:bottom, left:right]
    planes = part[None] if image.ndim == 2 else part.transpose(2, 0, 1)  # (C, H', W')
    source = torch.from_numpy(planes.astype(np.float32, order="C"))
    positions = np.empty((*np.broadcast_shapes(grid.rows.shape, grid.columns.shape), 2), dtype=np.float32)
    positions[..., 0] = (grid.columns - left) * (2 / (right - left)) - 1  # grid_sample: -1..1 from edge to edge
    positions[..., 1] = (grid.rows - top) * (2 / (bottom - top)) - 1
    result = F.grid_sample(
        source[None], torch.from_numpy(positions)[None], mode=interpolation, padding_mode="border", align_corners=False
    )[0].numpy()  # (C, h, w)
    return result[0] if image.ndim == 2 else result.transpose(1, 2, 0)


def _reach(positions: Positions, size: int, around: int) -> tuple[int, int]:
    """Give the range of pixels that interpolation at these positions reads."""
    first = min(max(int(np.floor(positions.min() - 0.5)) + 1 - around, 0), size - 1)
    return first, min(max(int(np.floor(positions.max() - 0.5)) + 1 + around, first + 1), size)


def _take(values: NDArray[Any], index: Index, *, axis: int) -> NDArray[Any]:
    """Take along an axis: a view where the index runs evenly, else a copy."""
    if len(index) > 1:
        step = int(index[1] - index[0])
        if step != 0 and bool((np.diff(index) == step).all()):
            start, stop = int(index[0]), int(index[-1]) + (1 if step > 0 else -1)
            return values[(slice(None),) * axis + (slice(start, None if stop < 0 else stop, step),)]
    return np.take(values, index, axis=axis)


def _clamp(index: Index, size: int) -> Index:
    return np.clip(index, 0, size - 1)
