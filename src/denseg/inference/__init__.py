# SPDX-License-Identifier: Apache-2.0
"""Inference: tile plans, exact halos, and the predictor that every other part calls."""

from __future__ import annotations

from denseg.inference.runtime import Tile, TilePlan, plan_tiles

__all__ = ["Tile", "TilePlan", "plan_tiles"]
