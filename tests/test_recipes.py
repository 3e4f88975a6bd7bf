# SPDX-License-Identifier: Apache-2.0
"""Every recipe that denseg ships can be trained with, and says where its numbers come from."""

from __future__ import annotations

import importlib.resources

import pytest
import torch

from denseg.config import dump_config, load_config, recipe_names, stage_configs
from denseg.models import create_model, split_parameters
from denseg.training.optimizer import create_optimizer


def text_of(name: str) -> str:
    return (importlib.resources.files("denseg") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")


def test_the_demo_has_its_recipe() -> None:
    assert "demo" in recipe_names()


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_builds_its_model_and_replays(name: str) -> None:
    config = load_config(name)
    model = config.model
    options = model.options | ({} if model.width is None else {"width": model.width})
    if model.form != "modern":
        options["form"] = model.form
    with torch.device("meta"):
        network = create_model(
            model.name,
            num_classes=2,
            backbone=model.backbone,
            output_stride=model.output_stride,
            in_channels=3,
            **options,
        )
    for _, train in stage_configs(config):
        create_optimizer(network, train, split_parameters(network))  # every part is one of this network's
    assert load_config(base=load_config(name).model_dump(mode="json")) == config
    assert dump_config(config)


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_says_where_its_numbers_come_from(name: str) -> None:
    head = text_of(name).split("\n\n")[0].splitlines()
    assert len([line for line in head if line.startswith("# ")]) >= 2
