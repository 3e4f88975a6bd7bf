# SPDX-License-Identifier: Apache-2.0
"""A whole training: its stages one after another, from the start or from where it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from denseg.config import stage_configs
from denseg.errors import CheckpointError
from denseg.metrics import scores_from_counts
from denseg.models.checkpoint import load_weights
from denseg.training.checkpoints import Keeper
from denseg.training.evaluation import metric_value
from denseg.training.fabric import create_fabric
from denseg.training.loop import StageLoop, Surroundings
from denseg.training.memory import keep_freed_memory
from denseg.training.pictures import sample_sheet
from denseg.training.stage import Stage
from denseg.training.state import LoadedState, Position, take

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from denseg.config import RunConfig
    from denseg.models import SegmentationModel
    from denseg.runs.folder import RunFolder
    from denseg.training.interrupt import StopRequest
    from denseg.training.progress import Progress
    from denseg.training.setup import TrainingData

__all__ = ["fit"]


def fit(
    run: RunFolder,
    config: RunConfig,
    data: TrainingData,
    *,
    progress: Progress,
    stop: StopRequest,
    loaded: LoadedState | None = None,
) -> Position:
    """Train to the end.

    Args:
        run: Where everything is written; it exists.
        config: The resolved configuration.
        data: The data set.
        progress: Where to tell how it goes.
        stop: Whether somebody asked to stop.
        loaded: The state to go on from.

    Returns:
        The position at the end, ``finished``.
    """
    import numpy as np

    for _, train in stage_configs(config):  # a metric that does not exist must be said now, not after the first epoch
        metric_value(train.metric, scores_from_counts(np.zeros((len(data.classes),) * 2, np.int64)), data.classes, None)
    keep_freed_memory()
    fabric = create_fabric(config.device, config.train.precision)
    position = Position() if loaded is None else loaded.position
    keeper = Keeper(run, config, data, active=fabric.is_global_zero)
    around = Surroundings(keeper, progress, stop)
    facts = run_facts(fabric)
    for line in changed_facts(position.facts, facts):
        progress.message(line)
    position.facts = facts
    devices = [fabric.device.index or 0] if fabric.device.type == "cuda" else []
    weights: tuple[Mapping[str, Tensor], Path] | None = None
    if loaded is not None:
        weights = take(loaded.tensors, "model"), loaded.path
    try:
        with torch.random.fork_rng(devices=devices):
            while not position.finished:
                stage = _build(config, data, fabric, position, weights, progress)
                loop = StageLoop(stage, position, data, around)
                if loaded is not None:
                    stage.restore(loaded)
                    if position.epoch_step == 0 and position.stage_epoch > 0:
                        with stage.averaged():
                            keeper.derive(stage.model, position, epochs=stage.plan.epochs)
                else:
                    kept = (2 if stage.train.optimizer == "adamw" else 1) + (stage.average is not None)
                    keeper.check_space(stage.model, kept)
                    if position.all_steps == 0 and keeper.active:
                        keeper.sheet(sample_sheet(stage.samples, data.classes))
                run_status(run, fabric, "running", **facts)
                with stop.deferred():
                    loop.run()
                    weights = _next_stage(config, stage, position, keeper)
                loaded = None
    finally:
        keeper.close()
    return position


def run_facts(fabric: Fabric) -> dict[str, Any]:
    """Collect what the bits of a training depend on besides its configuration and data.

    Args:
        fabric: Device and processes.

    Returns:
        JSON values.
    """
    return {
        "torch": torch.__version__,
        "device": fabric.device.type,
        "threads": torch.get_num_threads(),
        "world_size": fabric.world_size,
    }


def changed_facts(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say what differs from where a resumed run started.

    Args:
        before: ``run_facts`` of then; empty for a new run.
        now: ``run_facts`` of now.

    Returns:
        One line, or none.
    """
    names = {"torch": "torch", "device": "device", "threads": "threads", "world_size": "processes"}
    changes = [
        f"{names[key]} {before[key]} -> {now[key]}" for key in names if key in before and before[key] != now[key]
    ]
    if not changes:
        return []
    return [
        f"note: this run goes on with {', '.join(changes)}; its result will be as good, but not bit for bit the same"
    ]


def run_status(run: RunFolder, fabric: Fabric, status: Any, **facts: Any) -> None:
    """Record the status and what the run runs on, on the first process only.

    Args:
        run: The run.
        fabric: Which process this is.
        status: The new status.
        **facts: What ``run_facts`` gave.
    """
    if fabric.is_global_zero:
        run.set_status(status, **facts)


def _build(
    config: RunConfig,
    data: TrainingData,
    fabric: Fabric,
    position: Position,
    weights: tuple[Mapping[str, Tensor], Path] | None,
    progress: Progress,
) -> Stage:
    def initialize(model: SegmentationModel) -> None:
        for line in initialize_weights(model, config):
            progress.message(line)

    stage = Stage(config, data, fabric, index=position.stage, weights=weights, initialize=initialize)
    frozen = f", {len(stage.frozen)} tensors frozen" if stage.frozen else ""
    crop = "x".join(str(side) for side in stage.crop)
    train = stage.train
    count = sum(parameter.numel() for parameter in stage.model.parameters())
    progress.message(
        f"{stage.plan.name}: {config.model.name}, {count:,} parameters{frozen}; {stage.plan.steps} steps in "
        f"{stage.plan.epochs} epochs, batch {train.batch_size * train.accumulate * fabric.world_size}, crop "
        f"{crop}; {train.optimizer}, learning rate {train.learning_rate:g}, {train.schedule}; {fabric.device}, "
        f"precision {train.precision}"
    )
    return stage


def initialize_weights(model: SegmentationModel, config: RunConfig) -> list[str]:
    """Give a fresh network the weights that ``init`` asks for.

    Args:
        model: The network; random, or with an ImageNet backbone already.
        config: The run's.

    Returns:
        Lines that say what was done.

    Raises:
        CheckpointError: The run or the file does not hold weights of this network.
    """
    if config.init in {"none", "imagenet"}:
        if config.model.pretrained:
            return [f"weights: ImageNet for {config.model.backbone}, random (seed {config.seed}) for the rest"]
        return [f"weights: random (seed {config.seed}); --init imagenet starts a backbone from ImageNet"]
    report = load_weights(model, Path(config.init), strict=False)
    total = len(model.state_dict())
    if len(report.matched) < total / 2:
        raise CheckpointError(
            f"{config.init} holds {len(report.matched)} of the {total} tensors of {config.model.name}; it is of "
            "another network: give --model and --backbone as it was trained, or another --init",
            path=config.init,
        )
    lines = [f"weights: {len(report.matched)} of {total} tensors from {config.init}"]
    if report.replaced:
        lines.append(f"weights: the classifier starts anew, because the classes differ ({', '.join(report.replaced)})")
    rest = [*report.missing, *report.mismatched]
    if rest:
        lines.append(f"weights: random for {len(rest)} tensors that it lacks (first {rest[0]})")
    return lines


def _next_stage(
    config: RunConfig, stage: Stage, position: Position, keeper: Keeper
) -> tuple[Mapping[str, Tensor], Path]:
    """Move the position past a stage and save it, so that a kill between two stages goes on with the next."""
    position.begin_stage()
    position.finished = position.stage == len(stage_configs(config))
    if position.finished:
        keeper.save(stage.tensors(), position)
        return stage.model.state_dict(), keeper.run.state_path
    with stage.averaged():
        weights = {name: tensor.clone() for name, tensor in stage.model.state_dict().items()}
    keeper.save({"model": weights}, position)
    return weights, keeper.run.state_path
