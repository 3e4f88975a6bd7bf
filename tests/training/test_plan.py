# SPDX-License-Identifier: Apache-2.0
"""The planner: each rule where it bites and where it does not; what the user said stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from denseg.config import RunConfig, load_config
from denseg.models import create_model
from denseg.training.machine import Machine, free_memory
from denseg.training.plan import Decision, Scene, decide, fit_memory, is_said, network_ladder, with_decisions

GIB = 2**30
STREET = Scene(
    images=400,
    val_images=100,
    size=(360, 480),
    bands=3,
    dtype="uint8",
    names=("road", "sky", "sign"),
    counts=(600, 390, 10),
    objects=(5000.0, 9000.0, 400.0),
    borders=0.03,
)
CELLS = replace(
    STREET, images=16, bands=1, size=(512, 512), names=("wall", "cell"), counts=(300, 700), objects=(900.0, 4000.0),
    borders=0.07,
)  # fmt: skip
CPU = Machine("cpu", 2, 8 * GIB)
GPU = Machine("cuda", 16, 80 * GIB)


def planned(scene: Scene = STREET, machine: Machine = CPU, *settings: str) -> tuple[RunConfig, dict[str, Any]]:
    config = load_config("auto", settings)
    result, made = decide(config, scene, machine, precision="bf16", stride=lambda _: 32)
    return result, {decision.key: decision.value for decision in made}


def test_the_auto_recipe_says_nothing_but_that_it_plans() -> None:
    config = load_config("auto")
    assert config.plan
    assert config.model_fields_set == {"plan", "recipe"}


def test_every_decision_lands_in_the_configuration() -> None:
    config, made = planned()
    for key, value in made.items():
        section: Any = config.model_dump(mode="json")
        for name in key.split("."):
            section = section[name]
        assert section == value, key


def test_what_was_said_stays() -> None:
    said = {
        "model.name": "fcn",
        "model.backbone": "resnet50",
        "train.optimizer": "sgd",
        "train.learning_rate": "0.5",
        "train.crop": "96",
        "train.precision": "32",
        "train.batch_size": "3",
        "train.class_weight": "none",
        "train.augment.contrast": "0.9",
        "train.workers": "5",
    }
    config, made = planned(STREET, CPU, *(f"{key}={value}" for key, value in said.items()))
    assert set(made) & set(said) == set()
    assert (config.model.backbone, config.train.crop, config.train.augment.contrast) == ("resnet50", 96, 0.9)
    assert config.train.augment.brightness == 0.1, "the rest of a section is still open"


@pytest.mark.parametrize(
    ("scene", "machine", "model"),
    [
        (STREET, CPU, {"name": "unet", "width": 0.5}),
        (STREET, GPU, {"name": "unet", "backbone": "resnet50"}),
        (CELLS, CPU, {"name": "unet", "width": 0.5}),
        (CELLS, GPU, {"name": "unet", "width": 1.0}),
    ],
)
def test_the_network_follows_device_and_structures(scene: Scene, machine: Machine, model: dict[str, Any]) -> None:
    _, made = planned(scene, machine)
    assert {key.removeprefix("model."): value for key, value in made.items() if key.startswith("model.")} == model


def test_every_rung_can_be_built() -> None:
    for scene, device in ((STREET, "cpu"), (STREET, "cuda"), (CELLS, "cpu"), (CELLS, "cuda")):
        import torch

        for rung in network_ladder(scene, device, {}):
            options = dict(rung)
            with torch.device("meta"):
                create_model(str(options.pop("name")), num_classes=3, **options)


@pytest.mark.parametrize(
    ("changes", "most"),
    [({}, 2), ({"borders": 0.06}, 1), ({"objects": (5000.0, None, 50.0)}, 1), ({"size": (128, 480)}, 1)],
)
def test_small_things_forbid_smaller_pictures(changes: dict[str, Any], most: int) -> None:
    assert replace(STREET, **changes).most_reduction == most


@pytest.mark.parametrize("name", ["fcn8s", "dilated_context"])
def test_a_paper_keeps_its_trunk(name: str) -> None:
    assert network_ladder(STREET, "cpu", {"name": name}) == [{}]


def test_a_named_model_gets_a_light_backbone_on_a_cpu() -> None:
    assert network_ladder(STREET, "cpu", {"name": "deeplab_v3_plus"})[0] == {"backbone": "resnet18"}
    assert network_ladder(STREET, "cuda", {"name": "deeplab_v3_plus"})[0] == {"backbone": "resnet50"}


@pytest.mark.parametrize("said", [{"width": 0.5}, {"backbone": "resnet50"}, {"form": "paper"}, {"reduction": 2}])
def test_a_named_network_is_not_exchanged(said: dict[str, Any]) -> None:
    assert network_ladder(STREET, "cpu", {"name": "unet", **said}) == [{}]


def test_rare_classes_get_weights_and_are_named() -> None:
    config = load_config("auto")
    _, made = decide(config, STREET, CPU, precision="32", stride=lambda _: 32)
    assert [str(decision) for decision in made if decision.key == "train.class_weight"] == [
        "train.class_weight enet: rare classes: sign"
    ]
    assert "train.class_weight" not in planned(replace(STREET, counts=(400, 300, 300)))[1]
    assert replace(STREET, counts=(1000, 0, 0)).rare == (), "one class alone is not rare"


@pytest.mark.parametrize(("images", "batch"), [(400, 8), (31, 7), (16, 4), (3, 2)])
def test_few_images_make_small_batches(images: int, batch: int) -> None:
    assert planned(replace(STREET, images=images))[1]["train.batch_size"] == batch


@pytest.mark.parametrize(
    ("size", "crop"),
    [((360, 480), [320, 416]), ((200, 1000), [200, 512]), ((48, 64), [48, 64]), ((2000, 3000), [512, 512])],
)
def test_the_crop_is_most_of_the_image_in_whole_strides(size: tuple[int, int], crop: list[int]) -> None:
    assert planned(replace(STREET, size=size))[1]["train.crop"] == crop


def test_grey_pictures_get_no_colour_changes() -> None:
    assert [key for key in planned(CELLS)[1] if key.startswith("train.augment")] == []


def test_memory_splits_a_batch_into_parts() -> None:
    config = load_config("auto", ["train.batch_size=8"])
    assert fit_memory(config, GIB // 4, CPU) == []
    made = fit_memory(config, GIB, replace_memory(CPU, 5 * GIB))
    assert {decision.key: decision.value for decision in made} == {"train.batch_size": 3, "train.accumulate": 3}
    assert made[0].reason == "a sample takes 1024 MiB, 5.0 GiB are free"
    tiny = {decision.key: decision.value for decision in fit_memory(config, 100 * GIB, CPU)}
    assert tiny == {"train.batch_size": 1, "train.accumulate": 8}, "one sample at a time at least"


def replace_memory(machine: Machine, memory: int) -> Machine:
    return Machine(machine.device, machine.processors, memory)


def test_decisions_keep_what_is_open_open() -> None:
    config = with_decisions(load_config("auto"), [Decision("train.batch_size", 4, "")])
    assert is_said(config, "train.batch_size")
    assert not is_said(config, "train.learning_rate")
    assert not is_said(config, "train.augment.contrast")


def test_free_memory_is_that_of_the_machine() -> None:
    import os

    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < free_memory("cpu") <= total


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    from denseg.training.machine import _left

    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    assert _left(tmp_path) == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert _left(tmp_path) is None
    assert _left(tmp_path / "none") is None
