# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules: pure functions of the step, so that a resumed run needs nothing stored."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from denseg.config import TrainConfig

__all__ = ["learning_rate_factor"]


def learning_rate_factor(step: int, total: int, config: TrainConfig) -> float:
    """Give what the learning rate is multiplied by at a step.

    ``poly`` is ``(1 - step / total) ** power``; ``cosine`` half a cosine from 1 to 0; ``step`` multiplies by
    ``step_factor`` every ``step_every`` steps (a third of the training where that is empty); ``constant`` is 1;
    ``one_cycle`` rises by half a cosine from ``start_factor`` to 1 at the share ``peak_at`` of the steps, and falls by
    another one (Smith and Topin 2019, as torch's ``OneCycleLR``). ``poly``, ``cosine`` and ``one_cycle`` end at
    ``end_factor``. The first ``warmup`` steps are also multiplied by what rises in a line from ``warmup_factor`` to 1.

    Args:
        step: Optimiser steps done, 0 before the first.
        total: Optimiser steps of the whole stage, at least 1.
        config: The stage's ``train`` section.

    Returns:
        The factor, in 0..1.
    """
    share = min(step / total, 1.0)
    if config.schedule == "poly":
        factor = _between(math.pow(1.0 - share, config.power), config.end_factor)
    elif config.schedule == "cosine":
        factor = _between(0.5 * (1.0 + math.cos(math.pi * share)), config.end_factor)
    elif config.schedule == "step":
        factor = math.pow(config.step_factor, step // (config.step_every or math.ceil(total / 3)))
    elif config.schedule == "one_cycle":
        factor = _one_cycle(step, total, config)
    else:
        factor = 1.0
    if step < config.warmup:
        risen = (step + 1) / (config.warmup + 1)
        factor *= config.warmup_factor + (1.0 - config.warmup_factor) * risen
    return factor


def _one_cycle(step: int, total: int, config: TrainConfig) -> float:
    """Up and down by half a cosine each; the last of the steps has the lowest learning rate."""
    last = max(total - 1, 1)
    peak = min(max(config.peak_at * total - 1, 0.0), last)
    if step <= peak:
        risen = step / peak if peak else 1.0
        return _between(0.5 * (1.0 - math.cos(math.pi * risen)), config.start_factor)
    fallen = min((step - peak) / (last - peak), 1.0)
    return _between(0.5 * (1.0 + math.cos(math.pi * fallen)), config.end_factor)


def _between(share: float, low: float) -> float:
    """Map 0..1 to ``low``..1."""
    return low + (1.0 - low) * share
