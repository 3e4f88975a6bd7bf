# SPDX-License-Identifier: Apache-2.0
"""Inference: tile plans, exact halos, and the predictor that every other part calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from denseg.inference.runtime import Tile, TilePlan, plan_tiles

if TYPE_CHECKING:
    from denseg.inference.predictor import Predictor

__all__ = ["Predictor", "Tile", "TilePlan", "plan_tiles"]


def __getattr__(name: str) -> Any:
    if name == "Predictor":  # imported on first use: plans need no torch
        from denseg.inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
