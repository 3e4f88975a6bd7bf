# SPDX-License-Identifier: Apache-2.0
"""From a budget to a length: the arithmetic, the choice of the network, and that nothing is decided twice."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from denseg.config import RunConfig, dump_config, load_config
from denseg.data.doctor.doctor import examine
from denseg.training.budget import fit_length, plan_run
from denseg.training.measure import Costs, Spent, activation_bytes, measure_costs
from denseg.training.prepare import Prepared, prepare
from denseg.training.setup import TrainingData


def costs(step: float, *, read: float = 0.0, image: float = 0.01) -> Costs:
    return Costs(Spent(step, 2 * step), Spent(read, read), Spent(image, 2 * image))


@given(
    step=st.floats(0.01, 5),
    seconds=st.floats(10, 10_000),
    epoch_steps=st.integers(1, 500),
    val_images=st.integers(1, 500),
    image=st.floats(0.001, 0.5),
)
def test_what_fits_fits(step: float, seconds: float, epoch_steps: int, val_images: int, image: float) -> None:
    length = fit_length(
        costs(step, image=image),
        seconds,
        clock="wall",
        epoch_steps=epoch_steps,
        val_images=val_images,
        per_step=step,
    )
    assert length.epochs >= 1
    assert 1 <= length.validate_every <= length.epochs
    assert length.seconds <= seconds or length.epochs == 1
    spent = length.epochs * epoch_steps * step + length.seconds * 0
    assert spent <= length.seconds


def test_a_long_budget_is_used_up() -> None:
    length = fit_length(costs(0.5), 1200, clock="wall", epoch_steps=45, val_images=100, per_step=0.5)
    assert 1150 < length.seconds <= 1200
    assert 40 < length.epochs < 53


def test_slow_validation_comes_less_often() -> None:
    often, rare = (
        fit_length(costs(0.1, image=image), 600, clock="wall", epoch_steps=10, val_images=100, per_step=0.1)
        for image in (0.001, 0.1)
    )
    assert often.validate_every < rare.validate_every


@pytest.mark.parametrize(
    ("clock", "workers", "shared", "seconds"),
    [("cpu", 2, True, 3.0), ("wall", 0, True, 2.0), ("wall", 2, True, 1.25), ("wall", 8, False, 1.0)],
)
def test_reading_counts_by_where_it_happens(clock: str, workers: int, shared: bool, seconds: float) -> None:
    assert costs(1.0, read=1.0).per_step(clock, workers=workers, processors=4, shared=shared) == seconds


@pytest.fixture(scope="module")
def prepared(tiny_data: Path) -> tuple[Any, Prepared]:
    examination = examine(tiny_data)
    return examination, prepare(examination, load_config("auto").data, seed=0)


def plan(
    prepared: tuple[Any, Prepared], *settings: str, step: float = 0.1
) -> tuple[RunConfig, dict[str, Any], list[str]]:
    tried: list[str] = []

    def measure(config: RunConfig, data: TrainingData) -> Costs:
        tried.append(str(config.model.backbone or config.model.width))
        return costs(step / (1 + len(tried)))

    config, made = plan_run(
        load_config("auto", ["device=cpu", *settings]), *prepared, started=(time.monotonic(), time.process_time()),
        measure=measure,
    )  # fmt: skip
    return config, {decision.key: decision.value for decision in made}, tried


def test_without_a_budget_nothing_is_timed_and_it_is_the_same_again(prepared: tuple[Any, Prepared]) -> None:
    first, _, tried = plan(prepared)
    again, _, _ = plan(prepared)
    assert tried == []
    assert first == again
    assert not first.plan, "a configuration that was decided is not planned again"
    assert first.train.epochs is not None
    assert first.train.crop == (48, 64)


def test_a_budget_takes_the_strongest_network_that_sees_enough(prepared: tuple[Any, Prepared]) -> None:
    rich, _, _ = plan(prepared, "train.budget=10h")
    poor, made, tried = plan(prepared, "train.budget=1m")
    assert len(tried) > 1
    assert (rich.model.backbone, rich.model.width) != (poor.model.backbone, poor.model.width)
    assert made["train.epochs"] == poor.train.epochs
    assert rich.train.epochs is not None
    assert poor.train.epochs is not None
    assert rich.train.epochs > poor.train.epochs


def test_a_length_that_was_said_needs_no_budget(prepared: tuple[Any, Prepared]) -> None:
    config, _, tried = plan(prepared, "train.budget=10m", "train.epochs=3")
    assert (config.train.epochs, tried) == (3, [])


def test_a_budget_serves_any_recipe(prepared: tuple[Any, Prepared], tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("train: {epochs: 500, optimizer: sgd}\nmodel: {name: unet, width: 0.0625}\n", encoding="utf-8")
    config = load_config(recipe, ["train.budget=1m", "device=cpu"])
    started = (time.monotonic(), time.process_time())
    decided, made = plan_run(config, *prepared, started=started, measure=lambda *_: costs(0.5))
    assert [decision.key for decision in made if decision.key.startswith("train.opt")] == []
    assert decided.train.epochs is not None
    assert 10 < decided.train.epochs < 60, "the command comes after the recipe"
    assert (decided.train.optimizer, decided.model.width) == ("sgd", 0.0625)


def test_the_decided_configuration_replays(prepared: tuple[Any, Prepared], tmp_path: Path) -> None:
    config, _, _ = plan(prepared, "train.budget=1m")
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path).model_copy(update={"recipe": config.recipe}) == config


def test_a_real_step_is_timed_and_weighed(prepared: tuple[Any, Prepared]) -> None:
    config, _, _ = plan(prepared, "model.width=0.0625", "train.crop=32", "train.batch_size=2")
    small = measure_costs(config, prepared[1].data)
    assert all(0 < spent.wall < 10 for spent in small)
    assert small.step.cpu > 0
    bytes_32 = activation_bytes(config, prepared[1].data)
    larger = config.model_copy(update={"train": config.train.model_copy(update={"crop": 64})})
    bytes_64 = activation_bytes(larger, prepared[1].data)
    assert bytes_64 == pytest.approx(4 * bytes_32, rel=0.1)
    channels = 4  # 0.0625 * 64: the first convolution's output alone is kept in float32
    assert bytes_32 > 32 * 32 * channels * 4
