# SPDX-License-Identifier: Apache-2.0
"""What to do about a training that failed: the pictures at fault, the batch kept for a look, the next thing to try."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from denseg.errors import DensegError, TrainingError
from denseg.models.tensor_file import write_tensors
from denseg.training.guards import NotFiniteError, explain_memory

if TYPE_CHECKING:
    from denseg.training.checkpoints import Keeper
    from denseg.training.setup import TrainingData
    from denseg.training.stage import Stage

__all__ = ["explain_failure"]

SHOWN = 8


def explain_failure(error: BaseException, stage: Stage, data: TrainingData, keeper: Keeper) -> None:
    """Raise a clear error in place of what torch or a guard said; return where there is nothing to add.

    Args:
        error: What ended the loop.
        stage: The stage that ran.
        data: The data set.
        keeper: Where the batch at fault is kept.

    Raises:
        TrainingError: The loss is not finite, or memory ran out.
    """
    if isinstance(error, NotFiniteError):
        raise TrainingError(_not_finite(error, stage, data, keeper)) from error
    if isinstance(error, DensegError):
        return
    explained = explain_memory(
        error, batch_size=stage.train.batch_size, accumulate=stage.train.accumulate, size=stage.crop
    )
    if explained is not None:
        raise explained from error


def _not_finite(error: NotFiniteError, stage: Stage, data: TrainingData, keeper: Keeper) -> str:
    facts = error.facts
    indices = [int(index) for batch in facts.batches for index in batch["index"]]
    stems = [data.train[index].stem for index in indices]
    listed = ", ".join(stems[:SHOWN]) + (f" and {len(stems) - SHOWN} more" if len(stems) > SHOWN else "")
    broken = [
        data.train[int(index)].image
        for batch in facts.batches
        for images, index in zip(batch["images"], batch["index"], strict=True)
        if not bool(torch.isfinite(images).all())
    ]
    kept = _keep_batch(error, stage, keeper)
    cause = (
        f"{broken[0]} holds values that are not finite: replace it"
        if broken
        else "lower train.learning_rate, add train.warmup, or set train.clip_norm"
    )
    what = "nan" if math.isnan(error.value) else "infinite"
    return (
        f"the {error.what} became {what} at step {facts.step} (epoch {facts.epoch}, learning rate "
        f"{facts.learning_rate:.3g}) on {listed}{kept}; the last good checkpoint is kept: {cause}, and start again "
        "from another --out"
    )


def _keep_batch(error: NotFiniteError, stage: Stage, keeper: Keeper) -> str:
    """Write the batch for a look; a disk that refuses it must not hide the message."""
    if not keeper.active:
        return ""
    path = keeper.run.failed_batch_path
    tensors = {
        f"{part}/{name}": value for part, batch in enumerate(error.facts.batches) for name, value in batch.items()
    }
    metadata = {"step": error.facts.step, "epoch": error.facts.epoch, "what": error.what, "stage": stage.plan.name}
    try:
        write_tensors(path, tensors, metadata)
    except DensegError:
        return ""
    return f" (kept in {path})"
