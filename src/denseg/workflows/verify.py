# SPDX-License-Identifier: Apache-2.0
"""Prove on the user's own set-up that a stopped run, resumed, ends with the same bits as one that never stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denseg.config import RunConfig, load_config
from denseg.errors import InterruptedRunError, TrainingError, UsageError
from denseg.runs import RunFolder
from denseg.training.interrupt import StopRequest, stoppable
from denseg.training.progress import Progress, SilentProgress, create_progress
from denseg.workflows.train import DEFAULT_RECIPE, begin_run, setting_words

if TYPE_CHECKING:
    from denseg.training.setup import TrainingData
    from denseg.training.state import LoadedState

__all__ = ["ResumeProof", "verify_resume"]

EPOCH_STEPS = 4
STEPS = 6
"""One epoch and a half: the stop lies in the middle of the first, the resumed part crosses into the second."""

STOPS = (1, 3)
VAL_IMAGES = 2


@dataclass(frozen=True)
class ResumeProof:
    """A proof that resuming is exact here.

    Attributes:
        steps: Optimiser steps of each training.
        stops: After how many of them one was stopped.
        tensors: Tensors of the state that were compared.
        numbers: Numbers in them.
        device: Where it ran.
    """

    steps: int
    stops: tuple[int, ...]
    tensors: int
    numbers: int
    device: str

    def lines(self) -> list[str]:
        """Say it to a person."""
        stops = " and ".join(str(stop) for stop in self.stops)
        return [
            f"resume is exact on this {self.device}: stopped after step {stops} of {self.steps} and gone on, "
            f"all {self.tensors} tensors ({self.numbers:,} numbers) and the table are the same, bit for bit"
        ]

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return {"ok": True, **dataclasses.asdict(self), "stops": list(self.stops)}


class _StopAfter(StopRequest):
    """Asks to stop when so many steps are done."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    def __bool__(self) -> bool:
        self._left -= 1
        return self._left <= 0


def verify_resume(
    path: Path | str,
    *,
    model: str | None = None,
    backbone: str | None = None,
    recipe: str | Path | None = None,
    settings: Sequence[str] = (),
    init: str | None = None,
    device: str | None = None,
    progress: Progress | bool = True,
) -> ResumeProof:
    """Train a few steps three times: through, and stopped at two places and resumed; compare everything that is kept.

    Nothing is left behind. Data, network, crop, batch and precision are those of the command; few images are read.

    Args:
        path: The data folder.
        model: Catalog name; over the recipe's.
        backbone: Name of the backbone; over the recipe's.
        recipe: Name of a recipe of denseg, or a YAML file; ``auto`` if empty.
        settings: ``key=value``, over everything else.
        init: ``none``, ``imagenet``, a run or a checkpoint file.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        progress: Where to tell how it goes; ``True`` for stderr, ``False`` for silence.

    Returns:
        The proof.

    Raises:
        TrainingError: Something differs.
        UsageError: Several processes were started.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("--verify-resume takes one process; start it without torchrun")
    display = create_progress(progress) if isinstance(progress, bool) else progress
    words = setting_words(model=model, backbone=backbone, init=init, device=device, settings=settings)
    with stoppable("stopped before anything was proved"), contextlib.closing(display):
        config = load_config(recipe or DEFAULT_RECIPE, [*words, "train.budget=null"])
        config, data = begin_run(Path(path), config, Path(), None, display)
        config, data = _shortened(config, data)
        with tempfile.TemporaryDirectory(prefix="denseg-verify-") as folder:
            whole = _train(Path(folder) / "whole", config, data, 0)
            for stop in STOPS:
                display.message(f"stopped after step {stop} of {STEPS} and resumed: comparing")
                _compare(whole, _train(Path(folder) / f"stopped-{stop}", config, data, stop), stop)
    numbers = sum(tensor.numel() for tensor in whole.tensors.values())
    return ResumeProof(STEPS, STOPS, len(whole.tensors), numbers, str(whole.position.facts["device"]))


def _shortened(config: RunConfig, data: TrainingData) -> tuple[RunConfig, TrainingData]:
    """Take a few images and steps of the user's own set-up."""
    count = EPOCH_STEPS * config.train.batch_size * config.train.accumulate
    values = config.model_dump()
    values["train"] |= {"epochs": None, "iterations": STEPS, "patience": None, "checkpoint_every": None}
    for stage in values["stages"]:
        stage["train"] = {key: value for key, value in stage["train"].items() if key != "epochs"}
        stage["train"]["iterations"] = STEPS
    few = dataclasses.replace(data, train=data.train[:count], val=data.val[:VAL_IMAGES], repeats=data.repeats[:count])
    return RunConfig.model_validate(values), few


def _train(path: Path, config: RunConfig, data: TrainingData, stop: int) -> LoadedState:
    """Train to the end, over a stop where one is asked for; give what is stored then."""
    from denseg.training.fit import fit
    from denseg.training.state import load_state

    run = RunFolder.create(path, config=config, classes=data.classes, split=(), environment={})
    silent = SilentProgress()
    loaded = None
    if stop:
        with contextlib.suppress(InterruptedRunError):
            fit(run, config, data, progress=silent, stop=_StopAfter(stop))
        loaded = load_state(run)
        if loaded is None or loaded.position.finished:
            raise TrainingError(f"the training did not stop after step {stop}; nothing is proved")
    fit(run, config, data, progress=silent, stop=StopRequest(), loaded=loaded)
    state = load_state(run)
    if state is None:
        raise TrainingError(f"the training left no state in {path}; nothing is proved")
    return state


def _compare(whole: LoadedState, resumed: LoadedState, stop: int) -> None:
    import torch

    names = whole.tensors.keys() | resumed.tensors.keys()
    missing = [name for name in names if name not in whole.tensors or name not in resumed.tensors]
    different = missing or [
        name for name in sorted(names) if not torch.equal(_bits(whole.tensors[name]), _bits(resumed.tensors[name]))
    ]
    if different:
        raise TrainingError(
            f"resume is not exact here: stopped after step {stop} of {STEPS} and gone on, {len(different)} of "
            f"{len(names)} tensors differ (first {different[0]}); the result of a resumed run is as good, but not the "
            "same: on a GPU, try CUBLAS_WORKSPACE_CONFIG=:4096:8, or train on the CPU"
        )
    tables = [
        [
            {key: row[key] for key in row if key not in {"seconds", "images_per_second"}}
            for row in state.position.history
        ]
        for state in (whole, resumed)
    ]
    if tables[0] != tables[1]:
        raise TrainingError(f"resume is not exact here: stopped after step {stop} and gone on, metrics.csv differs")


def _bits(tensor: Any) -> Any:
    """Compare bits: NaN equals itself, 0 is not -0."""
    import torch

    return tensor.contiguous().view(torch.uint8) if tensor.ndim else tensor.reshape(1).view(torch.uint8)
