# SPDX-License-Identifier: Apache-2.0
"""What stops a training early and clearly: a loss that is not finite, a disk or a memory that is too small."""

from __future__ import annotations

import math
import shutil
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from denseg.errors import OutputError, TrainingError

__all__ = ["FiniteGuard", "NotFiniteError", "StepFacts", "check_finite_model", "check_free_space", "explain_memory"]


@dataclass(frozen=True)
class StepFacts:
    """What a message about a step needs.

    Attributes:
        step: Number of the step, counted from 1.
        epoch: Number of the epoch, counted from 1.
        learning_rate: The largest of the groups.
        batches: The micro-batches, as the loader gave them.
    """

    step: int
    epoch: int
    learning_rate: float
    batches: tuple[Mapping[str, Tensor], ...]


class NotFiniteError(TrainingError):
    """The loss of a step, or its gradient, is NaN or infinite.

    Attributes:
        value: What it is.
        facts: The step.
        what: ``loss`` or ``gradient``.
    """

    def __init__(self, value: float, facts: StepFacts, what: str = "loss") -> None:
        """Keep the facts; the loop turns them into advice.

        Args:
            value: What it is.
            facts: The step.
            what: ``loss`` or ``gradient``.
        """
        super().__init__(f"the {what} became {value} at step {facts.step}")
        self.what = what
        self.value = value
        self.facts = facts


class FiniteGuard:
    """Looks at every step's loss: at once on the CPU, on a GPU one step later so that it never waits for the device."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Tensor, torch.cuda.Event | None, StepFacts]] = deque()

    def push(self, loss: Tensor, facts: StepFacts) -> float | None:
        """Take a step's loss.

        Args:
            loss: A detached scalar.
            facts: The step.

        Returns:
            The newest loss that is known: this step's on the CPU, the one before on a GPU; ``None`` at its first step.
        """
        event = None
        if loss.device.type == "cuda":
            host = torch.empty_like(loss, device="cpu", pin_memory=True)
            loss = host.copy_(loss, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._waiting.append((loss, event, facts))
        return self._check(keep=1 if event is not None else 0)

    def flush(self) -> None:
        """Look at every loss that waits; call before anything is saved."""
        self._check(keep=0)

    def _check(self, *, keep: int) -> float | None:
        value = None
        while len(self._waiting) > keep:
            loss, event, facts = self._waiting.popleft()
            if event is not None:
                event.synchronize()
            value = float(loss)
            if not math.isfinite(value):
                raise NotFiniteError(value, facts)
        return value


def check_finite_model(model: nn.Module) -> str:
    """Look for weights that are not finite, which a finite loss with an infinite gradient leaves behind.

    Args:
        model: The network.

    Returns:
        Name of the first such parameter or buffer; empty where all are finite.
    """
    tensors = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    if not tensors:
        return ""
    finite = torch.stack([torch.isfinite(value).all() for value in tensors.values()]).tolist()  # one transfer
    return next((name for name, good in zip(tensors, finite, strict=True) if not good), "")


def check_free_space(folder: Path, needed: int) -> None:
    """Refuse to start where the checkpoints would not fit.

    Args:
        folder: The run folder.
        needed: Bytes that the run will write.

    Raises:
        OutputError: Less is free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"no space for checkpoints in {folder}: the run needs about {_size(needed)}, {_size(free)} are free; "
            "free some or choose another folder with --out",
            path=folder,
        )


def explain_memory(
    error: BaseException, *, batch_size: int, accumulate: int, size: Iterable[int]
) -> TrainingError | None:
    """Turn "out of memory" into advice.

    Args:
        error: What torch raised.
        batch_size: Images per step and process.
        accumulate: Batches per optimiser step.
        size: Height and width of the samples.

    Returns:
        The error to raise; ``None`` where it was something else.
    """
    text = str(error)
    if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "can't allocate memory" not in text:
        return None
    where = "the GPU" if isinstance(error, torch.OutOfMemoryError) else "this machine"
    shape = "x".join(str(side) for side in size)
    if batch_size > 1:
        half = batch_size // 2
        advice = (
            f"--set train.batch_size={half} --set train.accumulate={accumulate * -(-batch_size // half)} "
            "takes about half and steps alike"
        )
    else:
        advice = "lower train.crop, choose a smaller model, or use --set train.precision=bf16"
    return TrainingError(f"{where} has too little memory for batches of {batch_size} samples of {shape}; {advice}")


def _size(count: int) -> str:
    value = float(count)
    for unit in ("bytes", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
