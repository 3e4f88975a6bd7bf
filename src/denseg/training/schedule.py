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
    ``step_factor`` every ``step_every`` steps (a third of the training where that is empty); ``constant`` is 1. The
    first ``warmup`` steps are also multiplied by ``(step + 1) / (warmup + 1)``.

    Args:
        step: Optimiser steps done, 0 before the first.
        total: Optimiser steps of the whole stage, at least 1.
        config: The stage's ``train`` section.

    Returns:
        The factor, in 0..1.
    """
    share = min(step / total, 1.0)
    if config.schedule == "poly":
        factor = math.pow(1.0 - share, config.power)
    elif config.schedule == "cosine":
        factor = 0.5 * (1.0 + math.cos(math.pi * share))
    elif config.schedule == "step":
        factor = math.pow(config.step_factor, step // (config.step_every or math.ceil(total / 3)))
    else:
        factor = 1.0
    if step < config.warmup:
        factor *= (step + 1) / (config.warmup + 1)
    return factor
