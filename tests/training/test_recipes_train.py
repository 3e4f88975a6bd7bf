# SPDX-License-Identifier: Apache-2.0
"""Every shipped recipe trains: its losses, parts, schedule and stages take two steps on a small copy of its network."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from denseg.config import ModelConfig, RunConfig, load_config, recipe_names
from denseg.models import MODELS
from denseg.runs import RunFolder
from denseg.training.fit import fit
from denseg.training.interrupt import StopRequest
from denseg.training.progress import SilentProgress
from denseg.training.setup import TrainingData, resolve_config

SMALL_TRAIN = {"crop": 64, "batch_size": 2, "accumulate": 1, "workers": 0, "precision": "32", "budget": None}


def shrunk(name: str) -> RunConfig:
    """Take a recipe as it is, on a network of few channels, for two steps."""
    values = load_config(name).model_dump()
    model = values["model"]
    entry = MODELS[model["name"]]
    network = entry.paper if model["form"] == "paper" and entry.paper is not None else entry.modern
    if "width" in inspect.signature(network).parameters and model["backbone"] is None:
        model["width"] = 0.0625
    else:  # the small backbone's stages have one unit each, and its trunk is no paper's
        paper = model["form"] == "paper"
        model |= {"form": "modern", "backbone": "test_resnet"}
        known = {*ModelConfig.model_fields, *inspect.signature(entry.modern).parameters}
        for option in [option for option in model if option == "multi_grid" or (paper and option not in known)]:
            del model[option]
    model["pretrained"] = False
    values |= {"init": "none", "device": "cpu", "plan": False}
    values["train"] |= SMALL_TRAIN | {"epochs": None, "iterations": 2}
    for stage in values["stages"]:
        kept = {key: value for key, value in stage["train"].items() if key not in {"epochs", *SMALL_TRAIN}}
        stage["train"] = kept | {"iterations": 1}
    return RunConfig.model_validate(values)


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_trains_two_steps(name: str, data: TrainingData, tmp_path: Path) -> None:
    config = resolve_config(shrunk(name), root=data.root, images=len(data.train), sizes=[(48, 64)])
    run = RunFolder.create(tmp_path / "run", config=config, classes=data.classes, split=(), environment={})
    position = fit(run, config, data, progress=SilentProgress(), stop=StopRequest())
    assert position.finished
    assert position.all_steps == (len(config.stages) or 2)
    rows: list[dict[str, Any]] = [dict(row) for row in run.metrics()]
    assert all(isinstance(row["loss"], float) for row in rows)
