# SPDX-License-Identifier: Apache-2.0
"""The state of a run: one file that holds everything a resumed run needs, and the rules of writing and choosing it.

``checkpoints/state.safetensors`` holds the tensors ``model/…``, ``optimizer/…``, ``loss/…`` and ``ema/…`` and, as
JSON, the :class:`Position`. No random state is stored, because none lives longer than a step: samples draw from (seed,
epoch, index), network layers from (seed, stage, step, micro-batch). The state before it stays as
``state.previous.safetensors``, so that damage found at the next start costs one save, not the run. ``last`` and
``best`` are made from the state that was written just before them, and made again on resume where the process died in
between.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from denseg.errors import CheckpointError, RunError
from denseg.files import output_error
from denseg.models.checkpoint import read_tensors, write_tensors
from denseg.runs.folder import RunFolder
from denseg.runs.tables import MetricRow

__all__ = ["STATE_FORMAT", "LoadedState", "Position", "load_state", "save_state", "take"]

STATE_FORMAT = 1


@dataclass
class Position:
    """Where a run is, in JSON values.

    Attributes:
        stage: Index of the stage that runs.
        step: Optimiser steps done in the stage.
        all_steps: Optimiser steps done over the whole run.
        stage_epoch: Epochs done in the stage.
        epoch: Epochs done over the whole run; the epoch under way has this number.
        epoch_step: Optimiser steps done in the epoch under way.
        epoch_images: Images seen in the epoch under way.
        epoch_loss: Sum over the steps of the epoch under way of the loss.
        epoch_seconds: Seconds spent in the epoch under way.
        history: One row per finished epoch, as in ``metrics.csv``.
        best: Best score so far; ``None`` before the first validation with a score.
        best_epoch: Number of epochs done when it was reached.
        stale: Validations since then, of this stage.
        finished: Whether nothing is left to do.
        facts: What the bits depend on besides the configuration: ``threads``, ``torch``, ``world_size``, ``device``.
        scaler: State of the fp16 loss scaler.
    """

    stage: int = 0
    step: int = 0
    all_steps: int = 0
    stage_epoch: int = 0
    epoch: int = 0
    epoch_step: int = 0
    epoch_images: int = 0
    epoch_loss: float = 0.0
    epoch_seconds: float = 0.0
    history: list[MetricRow] = field(default_factory=list)
    best: float | None = None
    best_epoch: int = 0
    stale: int = 0
    finished: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Give the fields by name."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Position:
        """Build it from what ``to_json`` gave."""
        known = {item.name for item in dataclasses.fields(cls)}
        return cls(**{key: inner for key, inner in value.items() if key in known})

    def begin_epoch(self) -> None:
        """Count the epoch under way as done and start the next."""
        self.epoch += 1
        self.stage_epoch += 1
        self.epoch_step = self.epoch_images = 0
        self.epoch_loss = self.epoch_seconds = 0.0

    def begin_stage(self) -> None:
        """Go on to the next stage."""
        self.stage += 1
        self.step = self.stage_epoch = self.stale = 0
        self.scaler = {}


@dataclass
class LoadedState:
    """A state read back.

    Attributes:
        tensors: All tensors, ``model/…``, ``optimizer/…``, ``loss/…``, ``ema/…``.
        position: Where the run was.
        extras: What the caller stored beside it.
        path: The file it came from.
        warning: What was wrong with a newer file; empty where nothing was.
    """

    tensors: dict[str, Tensor]
    position: Position
    extras: dict[str, Any]
    path: Path
    warning: str = ""


def save_state(
    run: RunFolder, tensors: Mapping[str, Mapping[str, Tensor]], position: Position, extras: Mapping[str, Any]
) -> None:
    """Write the state; the one before stays beside it.

    Args:
        run: The run.
        tensors: ``{"model": …, "optimizer": …, "loss": …, "ema": …}``, each by name.
        position: Where the run is.
        extras: JSON values to keep with it.
    """
    flat = {f"{group}/{name}": tensor for group, named in tensors.items() for name, tensor in named.items()}
    document = {"state_format": STATE_FORMAT, "position": position.to_json(), "extras": dict(extras)}
    _keep_previous(run)
    write_tensors(run.state_path, flat, document)


def load_state(run: RunFolder) -> LoadedState | None:
    """Read the newest state that is whole.

    Args:
        run: The run.

    Returns:
        The state, or ``None`` where the run never reached one.

    Raises:
        CheckpointError: Every state there is damaged.
        RunError: A newer version of denseg wrote it.
    """
    warning = ""
    for path in (run.state_path, run.previous_state_path):
        if not path.is_file():
            continue
        try:
            tensors, document = read_tensors(path)
        except CheckpointError as error:
            if warning:
                raise CheckpointError(
                    f"{warning}; and {error}. Start a new run from another --out", path=path
                ) from error
            warning = str(error)
            continue
        if document.get("state_format", 0) > STATE_FORMAT:
            raise RunError(f"{path} was written by a newer denseg; update denseg to resume this run", path=run.path)
        position = Position.from_json(document["position"])
        return LoadedState(tensors, position, dict(document["extras"]), path, warning)
    if warning:
        raise CheckpointError(
            f"{warning}; there is no earlier state to resume from. Start a new run from another --out"
        )
    return None


def take(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    """Pick one group out of a state's tensors.

    Args:
        tensors: All of them.
        group: ``model``, ``optimizer``, ``loss`` or ``ema``.

    Returns:
        The group's tensors by their own names.
    """
    prefix = f"{group}/"
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_model_tensors(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give a network the weights of a state.

    Args:
        model: The network.
        tensors: Its tensors by name.
        path: The file they came from, for the message.

    Raises:
        CheckpointError: They do not fit: another version of denseg or of the backbone library built the run.
    """
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{path} does not fit the network that its config.yaml builds here ({first}); "
            "resume with the versions in the run's environment.json",
            path=path,
        ) from error


def _keep_previous(run: RunFolder) -> None:
    """Give the current state its second name, so that neither moment of the write leaves the run without a state."""
    if not run.state_path.is_file():
        return
    temporary = run.previous_state_path.with_name(f".previous.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        try:
            os.link(run.state_path, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(run.state_path, temporary)
        temporary.replace(run.previous_state_path)
    except OSError as error:
        raise output_error(run.previous_state_path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
