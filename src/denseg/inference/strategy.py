# SPDX-License-Identifier: Apache-2.0
"""How an image is computed: what a user may say about tiles, and what is decided from it and from the model.

Pure numpy, as :mod:`denseg.inference.runtime`: exported models decide by the same lines.

Letters: K classes, h and w height and width of a part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy.typing as npt

from denseg.errors import UsageError
from denseg.inference.runtime import TilePlan, plan_tiles, round_up

if TYPE_CHECKING:
    from denseg.types import Geometry

__all__ = ["Block", "Mode", "Strategy", "TileOptions", "choose_strategy", "fit_size"]

Array = npt.NDArray[Any]
LARGEST_TILE = 2048
"""Pixels on a side; larger ones gain nothing."""
Mode = Literal["auto", "whole", "halo", "overlap_tile", "blend", "exact"]


@dataclass(frozen=True)
class TileOptions:
    """What a user may say about tiles.

    Attributes:
        mode: ``auto`` chooses from the model; ``exact`` collects what a model takes from the whole image before.
        tile: Side of the windows in pixels; chosen from ``memory`` if ``None``, and the image is whole where it fits.
        overlap: Pixels that two windows share; twice the model's halo if ``None``, a quarter of the tile for ``blend``.
        memory: Bytes that one forward pass may take, weights aside.
        window: Weights of ``blend``: ``gaussian`` or ``hann``.
    """

    mode: Mode = "auto"
    tile: int | None = None
    overlap: int | None = None
    memory: int = 2 << 30
    window: str = "gaussian"


class Strategy(NamedTuple):
    """How one image is computed.

    Attributes:
        mode: Never ``auto``.
        plan: The windows.
        exact: Whether the result equals that of the whole image (up to rounding, 1e-5).
        reason: Why, in a few words for a person.
    """

    mode: Mode
    plan: TilePlan
    exact: bool
    reason: str

    def __str__(self) -> str:
        """Say the strategy in one line."""
        return f"{self.plan}; mode {self.mode}, {'exact' if self.exact else 'approximate'}: {self.reason}"


class Block(NamedTuple):
    """A finished part of the result.

    Attributes:
        top: First row in the image.
        left: First column in the image.
        values: Labels ``(h, w)`` or probabilities ``(K, h, w)``.
    """

    top: int
    left: int
    values: Array


def fit_size(side: int, geometry: Geometry) -> int:
    """Round a side up to the next one that the model takes.

    Args:
        side: Pixels.
        geometry: The model's.

    Returns:
        ``size_offset + size_step * k``, at least ``side`` and ``min_size``.
    """
    side = max(side, geometry.min_size)
    return side + (geometry.size_offset - side) % geometry.size_step


def choose_strategy(
    height: int,
    width: int,
    *,
    pixels: int,
    geometry: Geometry,
    multiple: int,
    options: TileOptions,
    reach: Callable[[], tuple[int | None, str]],
) -> Strategy:
    """Decide how an image is computed.

    Args:
        height: Rows of the image.
        width: Columns of the image.
        pixels: Pixels of one forward pass that fit into the memory.
        geometry: The model's.
        multiple: Sides and offsets of windows are multiples of this.
        options: What the user said.
        reach: Gives the model's halo, ``None`` where no halo makes tiles exact, and why; called only when needed.

    Returns:
        The strategy.

    Raises:
        UsageError: The mode ``halo`` for a model that no halo makes exact.
    """
    if geometry.margin:
        return _overlap_tile(height, width, pixels, geometry, options)
    mode, tile = options.mode, options.tile
    canvas = [round_up(side, multiple) for side in (height, width)]
    if mode == "whole" or (mode == "auto" and tile is None and canvas[0] * canvas[1] <= pixels):
        plan = plan_tiles(height, width, tile=(canvas[0], canvas[1]), overlap=0, multiple=multiple)
        return Strategy("whole", plan, True, "the image fits into memory")
    if tile is not None and max(canvas) <= tile:
        plan = plan_tiles(height, width, tile=tile, overlap=0, multiple=multiple)
        return Strategy("whole", plan, True, "the image fits into one tile")
    halo, reason = reach()
    if mode == "halo" and halo is None:
        raise UsageError(f"no halo makes tiles of this model exact: {reason}; use the mode 'blend'")
    if mode == "blend" or halo is None:
        return _blend(height, width, pixels, multiple, options, reason if halo is None else "asked for")
    return _halo(height, width, pixels, multiple, options, halo, reason)


def _overlap_tile(height: int, width: int, pixels: int, geometry: Geometry, options: TileOptions) -> Strategy:
    margin, step, seam = geometry.margin, geometry.size_step, geometry.seam
    trim = round_up(seam, step)
    if options.tile is not None:
        tile = (fit_size(options.tile, geometry),) * 2
    else:
        most = fit_size(min(int(pixels**0.5), LARGEST_TILE) - step, geometry)
        most = max(most, fit_size(2 * (margin + trim) + 8 * step, geometry))
        kept = (most - 2 * margin) // step * step - 2 * trim
        evenly = [round_up(-(-side // -(-side // kept)), step) + 2 * trim for side in (height, width)]
        tile = fit_size(evenly[0] + 2 * margin, geometry), fit_size(evenly[1] + 2 * margin, geometry)
    needed = 2 * (margin + seam) if seam else 0
    overlap = needed if options.overlap is None else options.overlap
    plan = plan_tiles(height, width, tile=tile, overlap=overlap, multiple=step, margin=margin)
    if overlap < needed and not plan.whole:
        return Strategy(
            "overlap_tile", plan, False, f"exact tiles of this model share {needed} pixels, these {overlap}"
        )
    return Strategy("overlap_tile", plan, True, "the model keeps only what it has full context for")


def _halo(
    height: int, width: int, pixels: int, multiple: int, options: TileOptions, halo: int, reason: str
) -> Strategy:
    overlap = 2 * halo if options.overlap is None else options.overlap
    tile: int | tuple[int, int] | None = options.tile
    if tile is None:
        lost = 2 * round_up(-(-overlap // 2), multiple)
        most = _tile_size(pixels, multiple, least=lost + 4 * multiple)
        tile = _even_tile(height, most, lost, multiple), _even_tile(width, most, lost, multiple)
    plan = plan_tiles(height, width, tile=tile, overlap=overlap, multiple=multiple)
    if overlap < 2 * halo and not plan.whole:
        return Strategy("halo", plan, False, f"exact tiles share {2 * halo} pixels ({reason}), these {overlap}")
    return Strategy("halo", plan, True, reason)


def _even_tile(side: int, most: int, lost: int, multiple: int) -> int:
    """The smallest tile that needs no more windows than the largest one."""
    canvas = round_up(side, multiple)
    count = 1 + max(0, -(-(canvas - most) // (most - lost)))
    return max(round_up(-(-(canvas + lost * (count - 1)) // count), multiple), min(most, lost + multiple))


def _blend(height: int, width: int, pixels: int, multiple: int, options: TileOptions, reason: str) -> Strategy:
    tile = round_up(options.tile or _tile_size(pixels, multiple, least=4 * multiple), multiple)
    overlap = options.overlap
    if overlap is None:
        overlap = round_up(tile // 4, 2 * multiple)
    plan = plan_tiles(height, width, tile=tile, overlap=overlap, multiple=multiple)
    return Strategy("blend", plan, plan.whole, reason)


def _tile_size(pixels: int, multiple: int, *, least: int) -> int:
    """The largest square tile within the memory, but one that keeps something."""
    return max(round_up(least, multiple), min(int(pixels**0.5), LARGEST_TILE) // multiple * multiple)
