# SPDX-License-Identifier: Apache-2.0
"""From an examined folder to a decided configuration: the plan, and the length that a time budget allows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from denseg.config import Budget, RunConfig, parse_budget
from denseg.data.samples.loader import BatchOrder
from denseg.training.fabric import choose_precision
from denseg.training.machine import Machine, look_at_machine
from denseg.training.measure import Costs, activation_bytes, measure_costs
from denseg.training.plan import Decision, Scene, decide, fit_memory, is_said, network_ladder, with_decisions
from denseg.training.setup import create_stage_model, resolve_config

if TYPE_CHECKING:
    from denseg.data.doctor.doctor import Examination
    from denseg.training.prepare import Prepared
    from denseg.training.setup import TrainingData

__all__ = ["Length", "fit_length", "look_at_scene", "plan_run"]

ENOUGH_SAMPLES = 15_000
"""Samples that a network should see before a stronger one pays, learning from random weights."""

USED_SHARE = 0.96
"""Of a budget; the rest is for what was not foreseen."""

VALIDATION_SHARE = 0.08
"""Of the time, at most, where that still leaves ``FEWEST_VALIDATIONS``."""

FEWEST_VALIDATIONS = 4
SAVING_SECONDS = 0.5
"""Writing the state and the tables after an epoch."""

Measure = Callable[[RunConfig, "TrainingData"], Costs]


@dataclass(frozen=True)
class Length:
    """How long a training is.

    Attributes:
        epochs: Passes over the training images.
        validate_every: Epochs between validations.
        seconds: What it is expected to take.
    """

    epochs: int
    validate_every: int
    seconds: float


def plan_run(
    config: RunConfig,
    examination: Examination,
    prepared: Prepared,
    *,
    started: tuple[float, float],
    measure: Measure = measure_costs,
) -> tuple[RunConfig, list[Decision]]:
    """Decide everything that a run needs to know.

    Args:
        config: What the user said, over recipe and defaults.
        examination: What the mask doctor saw.
        prepared: The data set.
        started: ``time.monotonic()`` and ``time.process_time()`` when the command began: a budget counts from there.
        measure: Takes a few steps and tells what they cost.

    Returns:
        The resolved configuration, and the decisions that need telling.
    """
    machine = look_at_machine(config.device)
    scene = look_at_scene(examination, prepared)
    made: list[Decision] = []
    planned = config
    if config.plan:
        planned, made = decide(
            config, scene, machine, precision=choose_precision(config.device), stride=_network_stride
        )
    resolved = _resolve(planned, prepared)
    if config.plan and not is_said(config, "train.batch_size"):
        smaller = fit_memory(resolved, activation_bytes(resolved, prepared.data), machine)
        made, resolved = _merged(made, smaller), with_decisions(resolved, smaller)
    if config.train.budget is None or config.train.epochs is not None or config.train.iterations is not None:
        return _settled(resolved), made
    return _spend(config, parse_budget(config.train.budget), (scene, machine, prepared), made, started, measure)


def look_at_scene(examination: Examination, prepared: Prepared) -> Scene:
    """Gather what the planner needs to know of the data.

    Args:
        examination: What the mask doctor saw.
        prepared: The data set.

    Returns:
        The facts.
    """
    sizes = sorted(prepared.sizes, key=lambda size: size[0] * size[1])
    classes = examination.fingerprint.get("classes", ())
    return Scene(
        images=len(prepared.data.train),
        val_images=len(prepared.data.val),
        size=sizes[len(sizes) // 2],
        bands=examination.bands,
        dtype=examination.dtype,
        names=examination.classes.names,
        counts=prepared.data.train_counts,
        objects=tuple(row.get("object_pixels") for row in classes),
        borders=examination.fingerprint.get("boundary_share"),
    )


def fit_length(
    costs: Costs, seconds: float, *, clock: str, epoch_steps: int, val_images: int, per_step: float
) -> Length:
    """Find how many epochs and validations fit.

    Args:
        costs: What steps and validation images cost.
        seconds: What may be spent, on ``clock``.
        clock: ``wall`` or ``cpu``.
        epoch_steps: Optimiser steps of an epoch.
        val_images: Images of a validation.
        per_step: Seconds of a step, reading included.

    Returns:
        The length; one epoch at least.
    """
    image: float = getattr(costs.image, clock)
    validation = val_images * image
    seconds -= validation * 1.5  # the evaluation at the end, which writes pictures too
    epoch = epoch_steps * per_step + SAVING_SECONDS
    most = max(1, math.floor((seconds - validation) / epoch))
    wanted = max(FEWEST_VALIDATIONS, math.floor(VALIDATION_SHARE * seconds / max(validation, 1e-9)))
    every = max(1, math.ceil(most / wanted))

    def total(epochs: int) -> float:
        return epochs * epoch + math.ceil(epochs / every) * validation

    epochs = most
    while epochs > 1 and total(epochs) > seconds:
        epochs -= max(1, math.floor((total(epochs) - seconds) / (epoch + validation)))
    epochs = max(epochs, 1)
    return Length(epochs, min(every, epochs), total(epochs) + validation * 1.5)


def _spend(
    config: RunConfig,
    budget: Budget,
    around: tuple[Scene, Machine, Prepared],
    made: list[Decision],
    started: tuple[float, float],
    measure: Measure,
) -> tuple[RunConfig, list[Decision]]:
    """Take the strongest network that the budget lets see enough samples, and as many epochs as fit."""
    scene, machine, prepared = around
    said = {name: getattr(config.model, name) for name in config.model.model_fields_set} | config.model.options
    rungs = network_ladder(scene, machine.device, said) if config.plan else [{}]
    for number, rung in enumerate(rungs):
        tried, chosen = config, made
        if config.plan:
            tried = with_decisions(config, [Decision(f"model.{key}", value, "") for key, value in rung.items()])
            tried, further = decide(
                tried, scene, machine, precision=choose_precision(config.device), stride=_network_stride
            )
            why = f"a budget of {config.train.budget}"
            chosen = [Decision(f"model.{key}", value, why) for key, value in rung.items()] + further
        resolved = _resolve(tried, prepared)
        if config.plan and not is_said(config, "train.batch_size"):
            smaller = fit_memory(resolved, activation_bytes(resolved, prepared.data), machine)
            chosen, resolved = _merged(chosen, smaller), with_decisions(resolved, smaller)
        costs = measure(resolved, prepared.data)
        train = resolved.train
        per_step = costs.per_step(
            budget.clock,
            workers=train.workers,
            processors=machine.processors,
            shared=machine.device == "cpu",
        )
        spent = (time.monotonic() - started[0]) if budget.clock == "wall" else (time.process_time() - started[1])
        left = USED_SHARE * budget.seconds - spent
        samples = left / per_step * train.batch_size * train.accumulate
        if samples >= ENOUGH_SAMPLES or number == len(rungs) - 1:
            break
    batches = len(BatchOrder(scene.images, train.batch_size, True))
    epoch_steps = math.ceil(batches / train.accumulate)
    length = fit_length(
        costs,
        left,
        clock=budget.clock,
        epoch_steps=epoch_steps,
        val_images=scene.val_images,
        per_step=per_step,
    )
    why = (
        f"{per_step:.2f} s a step of {train.batch_size * train.accumulate} samples, {epoch_steps} steps an epoch: "
        f"about {length.seconds / 60:.1f} of {budget.seconds / 60:g} min"
    )
    decided = [Decision("train.epochs", length.epochs, why)]
    if not is_said(config, "train.validate_every") and length.validate_every > 1:
        every = f"{scene.val_images} validation images take their time"
        decided.append(Decision("train.validate_every", length.validate_every, every))
    return _settled(with_decisions(resolved, decided)), chosen + decided


def _resolve(config: RunConfig, prepared: Prepared) -> RunConfig:
    data = prepared.data
    return resolve_config(config, root=data.root, images=len(data.train), sizes=prepared.sizes)


def _settled(config: RunConfig) -> RunConfig:
    """Nothing is left to decide: a configuration that is read back must not be planned again."""
    return config.model_copy(update={"plan": False})


def _merged(made: list[Decision], later: list[Decision]) -> list[Decision]:
    changed = {decision.key for decision in later}
    return [decision for decision in made if decision.key not in changed] + later


def _network_stride(config: RunConfig) -> int:
    import torch

    with torch.device("meta"):
        model = create_stage_model(config, 0, num_classes=2, bands=3, pretrained=False)
    return model.geometry.total_stride
