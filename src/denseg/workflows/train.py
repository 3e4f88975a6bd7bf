# SPDX-License-Identifier: Apache-2.0
"""Train: from a folder of images and masks to a run folder with checkpoints, scores and a report."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import operator
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denseg.config import RunConfig, known_keys, load_config
from denseg.data.doctor.doctor import examine
from denseg.errors import DataError, DensegError, InterruptedRunError, OutputError, RunError, UsageError
from denseg.files import make_folder
from denseg.report.numbers import plural
from denseg.runs import RunFolder, describe_environment, latest_run_path, lock_run, next_run_path
from denseg.training.interrupt import StopRequest, stoppable
from denseg.training.progress import Progress, create_progress
from denseg.workflows.check import examination_json, examination_lines

if TYPE_CHECKING:
    from denseg.training.setup import TrainingData
    from denseg.training.state import LoadedState

__all__ = ["DEFAULT_RECIPE", "TrainResult", "begin_run", "setting_words", "train"]

# What may differ between the command that resumes a run and the one that started it: none of it changes the result.
RESUMABLE = ("device", "plan", "recipe", "train.workers", "train.checkpoint_every")
DEFAULT_RECIPE = "auto"

_STOPPED = "stopped; what was saved is whole: the same command with --resume goes on from there"


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        run: The run folder.
        evaluation: Its ``evaluation/val.json``.
        note: What is worth saying besides; empty where nothing is.
    """

    run: RunFolder
    evaluation: dict[str, Any]
    note: str = ""

    def lines(self) -> list[str]:
        """Say the result to a person."""
        if not self.evaluation:
            return []  # one of several processes; the first one tells
        record, scores = self.run.record(), self.evaluation
        judged = f"{record['folds']} folds" if record.get("folds") else "val"
        best = record.get("best") or {}
        low, high = scores["interval"]
        lines = [self.note] if self.note else []
        at = f" (best epoch {best['epoch']} of {record.get('epoch')})" if best else ""
        lines.append(f"run       {self.run.path}{at}")
        lines.append(
            f"{judged:<9} mIoU {_shown(scores['miou'])}, 95 % interval {_shown(low)} to {_shown(high)}, majority "
            f"baseline {_shown(scores['baseline_miou'])}; pixel accuracy {_shown(scores['pixel_accuracy'])}; "
            + plural(scores["images"], "image")
        )
        lines += [f"note      {warning}" for warning in scores["warnings"]]
        lines.append(f"report    {self.run.report_path}")
        lines.append(f"predict   denseg predict {self.run.path} IMAGES --out predictions")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Give the result as JSON values."""
        record = self.run.record()
        return {
            "run": str(self.run.path),
            "status": record["status"],
            "epochs": record.get("epoch"),
            "best": record.get("best"),
            "checkpoint": str(self.run.checkpoint()),
            "report": str(self.run.report_path),
            "val": self.evaluation,
        }


def train(  # noqa: PLR0913 - the options of the command
    path: Path | str,
    *,
    model: str | None = None,
    backbone: str | None = None,
    recipe: str | Path | None = None,
    settings: Sequence[str] = (),
    out: Path | str | None = None,
    resume: bool = False,
    init: str | None = None,
    device: str | None = None,
    budget: str | None = None,
    folds: int | None = None,
    progress: Progress | bool = True,
) -> TrainResult:
    """Train a model on a folder.

    Args:
        path: The data folder.
        model: Catalog name; over the recipe's.
        backbone: timm or torchvision name; over the recipe's.
        recipe: Name of a recipe of denseg, or a YAML file; ``auto`` if empty, which decides from data and machine.
        settings: ``key=value``, over everything else.
        out: The run folder; ``runs/DATA-MODEL`` if empty.
        resume: Go on where the run stopped; start it where there is none.
        init: ``none``, ``imagenet``, a run or a checkpoint file.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        budget: Time for the whole command, for example ``30m``; decides how long to train.
        folds: Train so many networks, each held out another part of the data; they predict together.
        progress: Where to tell how it goes; ``True`` for stderr, ``False`` for silence.

    Returns:
        The finished run.

    Raises:
        DataError: The data would spoil training, or are not there.
        InterruptedRunError: Ctrl-C or SIGTERM; everything is saved.
    """
    display = create_progress(progress and _is_leader()) if isinstance(progress, bool) else progress
    words = setting_words(
        model=model, backbone=backbone, init=init, device=device, budget=budget, folds=folds, settings=settings
    )
    with stoppable(_STOPPED) as stop:
        try:
            return _train(Path(path), recipe, words, None if out is None else Path(out), resume, display, stop)
        finally:
            display.close()


def setting_words(
    *,
    model: str | None,
    backbone: str | None,
    init: str | None,
    device: str | None,
    settings: Sequence[str],
    budget: str | None = None,
    folds: int | None = None,
) -> list[str]:
    """Put what the options of the command say into ``key=value``, before what ``--set`` says.

    Args:
        model: Catalog name.
        backbone: Name of the backbone.
        init: Where the first weights come from.
        device: Where to train.
        settings: ``key=value``.
        budget: Time.
        folds: How many.

    Returns:
        The settings; none for what is empty.
    """
    said = {"model.name": model, "model.backbone": backbone, "init": init, "device": device}
    said |= {"train.budget": budget, "folds": folds}  # type: ignore[dict-item]
    return [f"{key}={json.dumps(value)}" for key, value in said.items() if value is not None] + list(settings)


def _train(
    path: Path,
    recipe: str | Path | None,
    words: list[str],
    out: Path | None,
    resume: bool,
    progress: Progress,
    stop: StopRequest,
) -> TrainResult:
    from denseg.training.state import load_state

    started = (time.monotonic(), time.process_time())
    config = load_config(recipe or DEFAULT_RECIPE, words)
    name = f"{path.resolve().name}-{config.model.name}"
    if out is None:
        out = (latest_run_path("runs", name) if resume else None) or next_run_path("runs", name)
    run = RunFolder(out)
    if config.folds is not None:
        from denseg.workflows.folds import train_folds

        return train_folds(
            path, config, out, recipe=recipe or DEFAULT_RECIPE, words=words, resume=resume, progress=progress
        )
    if RunFolder.is_run(out) and run.record().get("folds") and run.status != "finished":
        raise UsageError(f"{out} was started with --folds {run.record()['folds']}; say so again")
    going_on = resume and RunFolder.is_run(out) and run.has_checkpoint
    if going_on:
        run = RunFolder.open(out)
        config = _resumed_config(run, path, recipe, words)
        if run.status == "finished":
            run.remove_leftovers()  # of a kill while the report was written
            return TrainResult(run, run.evaluation("val"), note=f"{out} is finished; nothing was done")
    else:
        RunFolder.check_free(out)
    leader = _is_leader()
    with contextlib.ExitStack() as held:
        loaded = None
        if going_on:
            if leader:
                held.enter_context(lock_run(out))
                run.remove_leftovers()
            loaded = load_state(run)
            if loaded is None:
                raise RunError(
                    f"{out} holds weights but no state to resume from; "
                    f"start from them in another --out with --init {out}",
                    path=out,
                )
            data = _go_on(run, config, loaded, progress)
        else:
            config, data = begin_run(path, config, out, held if leader else None, progress, started)
        return _run(run, config, data, loaded, leader=leader, progress=progress, stop=stop)


def _run(
    run: RunFolder,
    config: RunConfig,
    data: TrainingData,
    loaded: LoadedState | None,
    *,
    leader: bool,
    progress: Progress,
    stop: StopRequest,
) -> TrainResult:
    """Fit and conclude, and record how it ended."""
    try:
        # All that is needed to the end: an import that a signal breaks off may tell it as an error of its own.
        for name in ("denseg.report", "denseg.training.conclude"):
            importlib.import_module(name)
        from denseg.training.fit import fit

        fit(run, config, data, progress=progress, stop=stop, loaded=loaded)
        if stop:
            raise InterruptedRunError(
                f"stopped after training, before the evaluation: {run.path} goes on with --resume"
            )
        return TrainResult(run, _conclude(run, config, data, progress) if leader else {})
    except InterruptedRunError as error:
        _record(run, "interrupted", str(error))
        raise
    except KeyboardInterrupt:
        _record(run, "interrupted", "stopped")
        raise
    except OutputError as error:
        _record(run, "failed", str(error))
        if not run.state_path.is_file():
            raise
        raise OutputError(f"{error}; what was saved before is whole: go on with --resume", path=error.path) from error
    except DensegError as error:
        if stop.at_once:
            _record(run, "interrupted", "stopped")
        else:
            _record(run, "failed", str(error))
        raise


def begin_run(
    path: Path,
    config: RunConfig,
    out: Path,
    held: contextlib.ExitStack | None,
    progress: Progress,
    started: tuple[float, float] | None = None,
) -> tuple[RunConfig, TrainingData]:
    """Look at the data, decide everything, and create the run folder.

    Args:
        path: The data folder.
        config: What the user said, over recipe and defaults.
        out: The run folder.
        held: Takes the lock of the folder; where ``None``, no folder is created.
        progress: Where to tell how it goes.
        started: Clocks when the command began, see ``plan_run``; now if ``None``.

    Returns:
        The resolved configuration and the data set.

    Raises:
        DataError: The data would spoil training.
    """
    started = started or (time.monotonic(), time.process_time())
    from denseg.training.budget import plan_run
    from denseg.training.fabric import share_text
    from denseg.training.precheck import check_wishes
    from denseg.training.prepare import prepare

    check_wishes(config)
    examination = examine(path, config=config.data, progress=lambda done, total: progress.work("read", done, total))
    progress.close()
    for line in examination_lines(examination):
        progress.message(line)
    if not examination.ok:
        first = next(finding for finding in examination.findings if finding.severity == "error")
        where = f" ({', '.join(str(file) for file in first.files[:3])})" if first.files else ""
        raise DataError(
            f"training did not start: {first.message}{where}; {first.action}",
            path=first.files[0] if first.files else path,
        )
    prepared = prepare(examination, config.data, seed=config.seed)
    data = prepared.data
    if prepared.made_split:
        progress.message(
            f"split: the folder has no val, so {len(data.val)} of {len(data.train) + len(data.val)} pictures are held "
            f"out (data.val_share {config.data.val_share:g}, seed {config.seed}); split.csv lists them"
        )
    plan: list[dict[str, Any]] = []
    if _is_leader():
        config, decisions = plan_run(config, examination, prepared, started=started)
        plan = [decision._asdict() for decision in decisions]
        for decision in decisions:
            progress.message(f"plan: {decision}")
    config = RunConfig.model_validate_json(share_text(config.model_dump_json() if _is_leader() else None))
    if held is not None:
        held.enter_context(lock_run(make_folder(out)))
        RunFolder.create(
            out,
            config=config,
            classes=data.classes,
            split=prepared.rows(),
            environment=describe_environment(plan=plan),
            check=examination_json(examination),
        )
    return config, data


def _go_on(run: RunFolder, config: RunConfig, loaded: LoadedState, progress: Progress) -> TrainingData:
    """Find everything of a run again."""
    from denseg.training.prepare import restore

    if loaded.warning:
        progress.message(f"note: {loaded.warning}; going on from {loaded.path}")
    position = loaded.position
    done = f"{plural(position.epoch, 'epoch')} and {plural(position.epoch_step, 'step')}"
    progress.message(f"resume {run.path}: {done} are done")
    return restore(run, config.data, loaded.extras)


def _conclude(run: RunFolder, config: RunConfig, data: TrainingData, progress: Progress) -> dict[str, Any]:
    """Evaluate the best weights on the validation split, write predictions and report, and close the run."""
    from denseg.report import write_report
    from denseg.training.conclude import evaluate_split, store_reach

    store_reach(run, config.device)
    evaluation = evaluate_split(run, config, data, "val", progress=progress)
    run.set_status("finished", message="")
    write_report(run)
    return evaluation


def _resumed_config(run: RunFolder, path: Path, recipe: str | Path | None, words: list[str]) -> RunConfig:
    """Read the run's configuration back; what the command says must not contradict it."""
    config = run.config()
    stored = config.model_dump(mode="json")
    again = f"train.budget={json.dumps(config.train.budget)}"  # it has been turned into epochs
    words = [word for word in words if word not in {again, again.replace('"', "")}]
    asked = load_config(recipe, words, base=stored)
    if config.data.path is not None and path.resolve() != Path(config.data.path):
        raise UsageError(f"{run.path} was trained on {config.data.path}, not on {path}; choose another --out")
    if config.init != asked.init and Path(asked.init).resolve() == Path(config.init):
        asked = asked.model_copy(update={"init": config.init})
    values = asked.model_dump(mode="json")
    for key in known_keys():
        before, after = (functools.reduce(operator.getitem, key.split("."), side) for side in (stored, values))
        if before != after and key not in RESUMABLE and key != "data.path":
            raise UsageError(
                f"{run.path} was started with {key}={before}, and --resume goes on with it; got {after}: "
                "leave it out, or choose another --out"
            )
    options = (config.model.options, asked.model.options)
    if options[0] != options[1]:
        raise UsageError(
            f"{run.path} was started with model options {options[0]}, and --resume goes on with them; got "
            f"{options[1]}: leave them out, or choose another --out"
        )
    kept = {"workers": asked.train.workers, "checkpoint_every": asked.train.checkpoint_every}
    return config.model_copy(update={"device": asked.device, "train": config.train.model_copy(update=kept)})


def _record(run: RunFolder, status: Any, message: str) -> None:
    """Note how the run ended; a disk that refuses it must not hide why."""
    with contextlib.suppress(DensegError):
        if _is_leader() and RunFolder.is_run(run.path):
            run.set_status(status, message=message)


def _is_leader() -> bool:
    """Whether this is the process that writes, of those that ``torchrun`` started."""
    return os.environ.get("RANK", "0") == "0"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
