# SPDX-License-Identifier: Apache-2.0
"""The parts that a warp is made of: each maps positions in its output to positions in its input.

All steps but two are matrices over ``(row, column, 1)``; a warp multiplies those that follow each other before it
applies them to a single position. Coordinates are those of ``warp.py``: from the top left corner, in pixels.

Letters: h and w height and width of the output in pixels, g nodes along a side of a coarse grid.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from denseg.errors import ShapeError

__all__ = [
    "Crop",
    "Elastic",
    "Flip",
    "Grid",
    "MatrixStep",
    "Mirror",
    "Perspective",
    "Scale",
    "Shear",
    "Step",
    "Turn",
    "project",
]

Positions = NDArray[np.float64]
Matrix = NDArray[np.float64]

_QUARTERS = {0.0: (1.0, 0.0), 90.0: (0.0, 1.0), 180.0: (-1.0, 0.0), 270.0: (0.0, -1.0)}  # cosine and sine, exact


class Grid(NamedTuple):
    """Where in the source each output pixel lies.

    Attributes:
        rows: float64 that broadcasts to ``(h, w)``: ``(h, 1)`` where it depends on the output row only.
        columns: float64 that broadcasts to ``(h, w)``: ``(1, w)`` where it depends on the output column only.
    """

    rows: Positions
    columns: Positions

    @property
    def separable(self) -> bool:
        """Whether rows depend on the output row only, and columns on the output column only."""
        return bool(self.rows.shape[1] == 1 and self.columns.shape[0] == 1)

    @property
    def crossed(self) -> bool:
        """Whether rows depend on the output column only, and columns on the output row only: a quarter turn."""
        return bool(self.rows.shape[0] == 1 and self.columns.shape[1] == 1)

    def outside(self, height: int, width: int) -> NDArray[np.bool_] | None:
        """Mark the output pixels that lie outside a source.

        Args:
            height: Of the source, in pixels.
            width: Of the source, in pixels.

        Returns:
            ``(h, w)`` bool, or ``None`` when every position lies inside.
        """
        if _within(self.rows, height) and _within(self.columns, width):
            return None
        rows = (self.rows < 0) | (self.rows >= height)
        columns = (self.columns < 0) | (self.columns >= width)
        return rows | columns


class Step(Protocol):
    """A part of a warp."""

    def __call__(self, grid: Grid) -> Grid:
        """Map positions from output to input."""
        ...


class MatrixStep(ABC):
    """A step that is a matrix."""

    @property
    @abstractmethod
    def matrix(self) -> Matrix:
        """``(3, 3)``: from ``(row, column, 1)`` of the output to those of the input, up to a factor."""

    def __call__(self, grid: Grid) -> Grid:
        """Map positions from output to input."""
        return project(self.matrix, grid)


@dataclass(frozen=True)
class Crop(MatrixStep):
    """Cut a window; a negative start or a window beyond the end reaches outside.

    Attributes:
        top: First row, in pixels of the input.
        left: First column, in pixels of the input.
    """

    top: int
    left: int

    @property
    def matrix(self) -> Matrix:
        """A shift."""
        return _affine((1, 0, self.top), (0, 1, self.left))


@dataclass(frozen=True)
class Scale(MatrixStep):
    """Resize ``source`` to ``target``, as ``resize`` with ``align_corners=False`` and without antialias.

    Attributes:
        source: ``(height, width)`` of the input.
        target: ``(height, width)`` of the output.
    """

    source: tuple[int, int]
    target: tuple[int, int]

    @property
    def matrix(self) -> Matrix:
        """A factor for rows and one for columns."""
        return _affine((self.source[0] / self.target[0], 0, 0), (0, self.source[1] / self.target[1], 0))


@dataclass(frozen=True)
class Flip(MatrixStep):
    """Mirror an input of ``size``.

    Attributes:
        size: ``(height, width)`` of the input, in pixels.
        horizontal: Swap left and right.
        vertical: Swap top and bottom.
    """

    size: tuple[int, int]
    horizontal: bool = True
    vertical: bool = False

    @property
    def matrix(self) -> Matrix:
        """Signs and shifts."""
        return _affine(
            (-1, 0, self.size[0]) if self.vertical else (1, 0, 0),
            (0, -1, self.size[1]) if self.horizontal else (0, 1, 0),
        )


@dataclass(frozen=True)
class Turn(MatrixStep):
    """Turn counter-clockwise; quarter turns are exact.

    Attributes:
        degrees: The angle.
        source: ``(row, column)`` of the input that stays in the middle.
        target: Where it lies in the output; the same point if empty.
    """

    degrees: float
    source: tuple[float, float]
    target: tuple[float, float] | None = None

    @property
    def matrix(self) -> Matrix:
        """A rotation and shifts."""
        angle = math.radians(self.degrees)
        cosine, sine = _QUARTERS.get(self.degrees % 360, (math.cos(angle), math.sin(angle)))
        return _about(self.source, self.target or self.source, (cosine, sine), (-sine, cosine))


@dataclass(frozen=True)
class Shear(MatrixStep):
    """Slant about a point.

    Attributes:
        across: Degrees that vertical lines lean.
        down: Degrees that horizontal lines lean.
        middle: ``(row, column)`` that stays where it is.
    """

    across: float
    down: float
    middle: tuple[float, float]

    @property
    def matrix(self) -> Matrix:
        """Ones, tangents and shifts."""
        across, down = np.tan(np.radians((self.across, self.down)))
        return _about(self.middle, self.middle, (1, down), (across, 1))


@dataclass(frozen=True)
class Perspective(MatrixStep):
    """Look from another side: the corners of the output lie at other places of the input.

    Attributes:
        size: ``(height, width)`` of the output, in pixels.
        shifts: ``(row, column)`` in pixels of the input, for the corners top left, top right, bottom left, bottom
            right. Shifts below a quarter of the sides keep every position on the near side of the horizon.
    """

    size: tuple[int, int]
    shifts: tuple[tuple[float, float], ...]

    @property
    def matrix(self) -> Matrix:
        """The homography of the four corners."""
        height, width = self.size
        corners = ((0, 0), (0, width), (height, 0), (height, width))
        rows: list[tuple[float, ...]] = []
        aims: list[float] = []
        for (row, column), (down, right) in zip(corners, self.shifts, strict=True):
            aim_row, aim_column = row + down, column + right
            rows.append((row, column, 1, 0, 0, 0, -row * aim_row, -column * aim_row))
            rows.append((0, 0, 0, row, column, 1, -row * aim_column, -column * aim_column))
            aims += [aim_row, aim_column]
        solved = np.linalg.solve(np.asarray(rows, np.float64), np.asarray(aims, np.float64))
        return np.append(solved, 1.0).reshape(3, 3)


@dataclass(frozen=True, eq=False)
class Elastic:
    """Bend smoothly: displacements at the nodes of a coarse grid over the output, cubic splines between them.

    The nodes lie evenly from edge to edge; between them runs the natural cubic spline through their values, along rows
    and columns (the bicubic interpolation of U-Net, Section 3.1).

    Attributes:
        size: ``(height, width)`` that the nodes span, in pixels.
        displacements: ``(2, g, g)`` pixels, rows then columns.
    """

    size: tuple[int, int]
    displacements: NDArray[np.float64]

    def __post_init__(self) -> None:
        shape = self.displacements.shape
        if len(shape) != 3 or shape[0] != 2 or min(shape[1:]) < 2:
            raise ShapeError(f"displacements must be (2, g, g) with at least 2 nodes along a side, got {shape}")

    def __call__(self, grid: Grid) -> Grid:
        """Map positions from output to input."""
        down = _spline_weights(grid.rows / self.size[0], self.displacements.shape[1])  # (h, 1, g) or (h, w, g)
        across = _spline_weights(grid.columns / self.size[1], self.displacements.shape[2])  # (1, w, g) or (h, w, g)
        if grid.separable:
            row_shift, column_shift = down[:, 0] @ self.displacements @ across[0].T  # (2, h, w)
        else:
            row_shift, column_shift = np.einsum("hwg,kgf,hwf->khw", down, self.displacements, across, optimize=True)
        return Grid(grid.rows + row_shift, grid.columns + column_shift)


@dataclass(frozen=True)
class Mirror:
    """Continue a picture beyond its edges by its mirror image, again and again.

    Attributes:
        size: ``(height, width)`` of the picture, in pixels.
    """

    size: tuple[int, int]

    def __call__(self, grid: Grid) -> Grid:
        """Map positions from output to input."""
        return Grid(_folded(grid.rows, self.size[0]), _folded(grid.columns, self.size[1]))


def project(matrix: Matrix, grid: Grid) -> Grid:
    """Apply a matrix to positions; what depends on rows or columns alone goes on doing so where the matrix allows it.

    Args:
        matrix: ``(3, 3)`` over ``(row, column, 1)``.
        grid: The positions.

    Returns:
        The mapped positions.
    """
    rows, columns = (_combined(grid, *matrix[place].tolist()) for place in (0, 1))
    if bool(matrix[2, 0]) or bool(matrix[2, 1]) or float(matrix[2, 2]) != 1:
        depth = _combined(grid, *matrix[2].tolist())
        return Grid(rows / depth, columns / depth)
    return Grid(rows, columns)


def _combined(grid: Grid, down: float, across: float, shift: float) -> Positions:
    """Add up without making a full grid where one of the factors is zero."""
    if across == 0:
        return grid.rows * down + shift
    if down == 0:
        return grid.columns * across + shift
    return grid.rows * down + (grid.columns * across + shift)


def _within(positions: Positions, size: int) -> bool:
    return bool(positions.min() >= 0) and bool(positions.max() < size)


def _affine(first: tuple[float, float, float], second: tuple[float, float, float]) -> Matrix:
    return np.asarray((first, second, (0, 0, 1)), np.float64)


def _about(
    source: tuple[float, float], target: tuple[float, float], first: tuple[float, float], second: tuple[float, float]
) -> Matrix:
    """Put a 2x2 matrix around a point of the input that another point of the output comes from."""
    rows = (source[place] - part[0] * target[0] - part[1] * target[1] for place, part in enumerate((first, second)))
    return _affine((*first, next(rows)), (*second, next(rows)))


def _folded(positions: Positions, size: int) -> Positions:
    if _within(positions, size):
        return positions
    folded = np.mod(positions, 2.0 * size)
    return np.minimum(np.minimum(folded, 2.0 * size - folded), np.nextafter(size, 0.0))


def _spline_weights(positions: Positions, nodes: int) -> Positions:
    """Give what each node's value counts for at positions in 0..1, ``positions.shape + (g,)``.

    Those are the natural cubic splines that are 1 at one node and 0 at the others.
    """
    along = positions * (nodes - 1)
    place = np.clip(np.floor(along), 0, nodes - 2).astype(np.int64)
    right = along - place
    left = 1 - right
    curvature = _curvatures(nodes)  # (g, g): second derivatives at the nodes, for each node's own spline
    values = np.eye(nodes)
    return (
        left[..., None] * values[place]
        + right[..., None] * values[place + 1]
        + ((left**3 - left) / 6)[..., None] * curvature[place]
        + ((right**3 - right) / 6)[..., None] * curvature[place + 1]
    )


def _curvatures(nodes: int) -> Positions:
    """Solve for the second derivatives of natural cubic splines; they are zero at both ends."""
    system, wanted = np.eye(nodes), np.zeros((nodes, nodes))
    for node in range(1, nodes - 1):
        system[node, node - 1 : node + 2] = (1, 4, 1)
        wanted[node, node - 1 : node + 2] = (6, -12, 6)
    return np.asarray(np.linalg.solve(system, wanted), np.float64)
