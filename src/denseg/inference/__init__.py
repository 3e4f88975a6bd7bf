# SPDX-License-Identifier: Apache-2.0
"""Inference: tile plans, exact halos, and the predictor that every other part calls."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from denseg.inference.runtime import Tile, TilePlan, plan_tiles

if TYPE_CHECKING:
    from denseg.inference.crf import CRF_PRESETS, CRFParameters, dense_crf
    from denseg.inference.crf_rnn import CRFasRNN
    from denseg.inference.predictor import Predictor

__all__ = ["CRF_PRESETS", "CRFParameters", "CRFasRNN", "Predictor", "Tile", "TilePlan", "dense_crf", "plan_tiles"]

_HOMES = {
    "CRF_PRESETS": "crf",
    "CRFParameters": "crf",
    "CRFasRNN": "crf_rnn",
    "Predictor": "predictor",
    "dense_crf": "crf",
}
"""Imported on first use: plans need no torch."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"denseg.inference.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
