# SPDX-License-Identifier: Apache-2.0
"""How an image is computed: what a user may say about tiles, and what was decided.

Letters: K classes, h and w height and width of a part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy.typing as npt

from denseg.inference.runtime import TilePlan

__all__ = ["Block", "Mode", "Strategy", "TileOptions"]

Array = npt.NDArray[Any]
Mode = Literal["auto", "whole", "halo", "overlap_tile", "blend"]


@dataclass(frozen=True)
class TileOptions:
    """What a user may say about tiles.

    Attributes:
        mode: ``auto`` chooses from the model.
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
