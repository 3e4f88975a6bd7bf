# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from denseg.config import RunConfig, load_config
from denseg.errors import ConfigError
from denseg.models import create_model
from denseg.training.setup import TrainingData, create_stage_model, crop_size, plan_stage, resolve_config


def config(*settings: str) -> RunConfig:
    return load_config(settings=settings)


def resolve(value: RunConfig, **changes: Any) -> RunConfig:
    arguments: dict[str, Any] = {"root": Path("/data/x"), "images": 100, "sizes": [(360, 480), (300, 700)]}
    return resolve_config(value, **(arguments | changes))


@pytest.mark.parametrize(
    ("images", "settings", "epochs"),
    [
        (100, (), 200),  # 12 steps an epoch: the bound
        (400, (), 80),  # 50 steps an epoch: 4000 steps
        (100_000, (), 20),
        (400, ("train.accumulate=2",), 160),
        (3, (), 200),  # one step an epoch
    ],
)
def test_epochs_make_about_four_thousand_steps(images: int, settings: tuple[str, ...], epochs: int) -> None:
    assert resolve(config(*settings), images=images).train.epochs == epochs


def test_what_was_said_stays() -> None:
    said = config("train.iterations=7", "train.crop=[100, 200]")
    resolved = resolve(said)
    assert (resolved.train.iterations, resolved.train.epochs, resolved.train.crop) == (7, None, (100, 200))
    assert resolve(resolved) == resolved


def test_the_crop_is_the_image_or_512() -> None:
    assert resolve(config()).train.crop == (360, 512)
    assert resolve(config(), sizes=[(40, 60)]).train.crop == (40, 60)


def test_initial_weights_become_a_path_or_a_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(config("init=imagenet")).model.pretrained
    assert not resolve(config("init=none")).model.pretrained
    monkeypatch.chdir(tmp_path)
    assert resolve(config("init=runs/a")).init == str(tmp_path / "runs" / "a")


@pytest.mark.parametrize(("key", "value"), [("precision", "bf16"), ("metric", "loss")])
def test_stages_share_what_cannot_change(key: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(config(f"stages=[{{name: a}}, {{name: b, train: {{{key}: {value}}}}}]"))
    assert str(caught.value) == f"all stages share one train.{key}; set it under train, not in a stage"


def test_the_plan_of_a_stage() -> None:
    plan = plan_stage(config("train.epochs=3", "train.accumulate=4"), 0, 10)
    assert (plan.epoch_steps, plan.steps, plan.epochs) == (3, 9, 3)
    plan = plan_stage(config("train.iterations=10"), 0, 4)
    assert (plan.epoch_steps, plan.steps, plan.epochs) == (4, 10, 3)
    stages = config("stages=[{name: a}, {name: b, train: {epochs: 2}, freeze: [backbone]}]")
    plan = plan_stage(stages, 1, 5)
    assert (plan.name, plan.freeze, plan.steps) == ("b", ("backbone",), 10)


def test_a_valid_form_takes_the_next_size_that_fits() -> None:
    model = create_model("unet", num_classes=2, in_channels=1, form="paper")
    height, width = crop_size(config("train.crop=[500, 572]").train, model)
    step, offset = model.geometry.size_step, model.geometry.size_offset
    assert (height - offset) % step == 0
    assert height >= 500
    assert width == 572
    with pytest.raises(ConfigError) as caught:
        crop_size(config().train, model)
    assert str(caught.value) == "train.crop is empty; give pixels, or [height, width]"


def test_the_network_depends_on_the_seed_alone() -> None:
    def first(seed: int) -> Any:
        model = create_stage_model(
            config(f"seed={seed}", "model.width=0.0625"), 0, num_classes=2, bands=3, pretrained=False
        )
        return next(model.parameters()).detach()

    assert bool((first(1) == first(1)).all())
    assert not bool((first(1) == first(2)).all())


def test_a_stage_changes_the_output_stride() -> None:
    value = config(
        "model.name=fcn",
        "model.backbone=test_resnet",
        "stages=[{name: a, output_stride: 16}, {name: b, output_stride: 8}]",
    )
    strides = [
        create_stage_model(value, stage, num_classes=2, bands=3, pretrained=False).geometry.score_stride
        for stage in (0, 1)
    ]
    assert strides == [16, 8]


def test_training_data_survives_json(data: TrainingData) -> None:
    stored = json.loads(json.dumps(data.to_json()))
    again = TrainingData.from_json(stored, root=data.root, train=data.train, val=data.val, max_pixels=data.max_pixels)
    assert again == data
    assert dataclasses.replace(again, one_size=True) != data
