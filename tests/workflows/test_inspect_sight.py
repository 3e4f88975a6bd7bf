# SPDX-License-Identifier: Apache-2.0
"""What inspect tells of sight, speed, advice and single pixels."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from denseg.errors import UsageError
from denseg.inference.effective_field import effective_field
from denseg.models import create_model, save_checkpoint
from denseg.types import ClassTable
from denseg.workflows.inspect import inspect_model
from denseg.workflows.inspect_pixel import explain_pixel
from denseg.workflows.inspect_sight import advise


def test_every_inspection_tells_the_receptive_field() -> None:
    local = inspect_model("unet", size=(64, 96), settings=["model.width=0.0625"])
    document = local.to_json()
    assert document["receptive_field"] == document["field"]["size"] == 204
    assert document["field"] == {"size": 204, "height": 204, "width": 204, "coverage": 1.0, "whole_image": False}
    assert "sees           204x204 pixels" in local.lines()
    assert {"parameters", "macs", "output_stride", "receptive_field", "paper"} <= document.keys()
    whole = inspect_model("pspnet", backbone="test_resnet", size=(64, 96))
    assert whole.to_json()["receptive_field"] == 96
    assert "sees           the whole image" in whole.lines()


def test_latency_and_memory() -> None:
    document = inspect_model(
        "unet", size=(32, 48), settings=["model.width=0.0625"], latency=True, device="cpu"
    ).to_json()
    speed = document["speed"]
    assert 0 < speed["low"] <= speed["seconds"] <= speed["high"]
    assert speed["memory"] > 4 * document["parameters"]
    assert speed["size"] == [32, 48]
    assert json.loads(json.dumps(document))["speed"]["device"] == "cpu"


FINGERPRINT: dict[str, Any] = {
    "images": {"height": {"median": 360}, "width": {"median": 480}},
    "classes": [
        {"name": "cell", "objects": 9, "object_pixels": 310.0**2},
        {"name": "dot", "objects": 5, "object_pixels": 25.0},
        {"name": "none", "objects": 0, "object_pixels": None},
    ],
}


def test_advice_holds_objects_against_sight() -> None:
    small = {"size": 190, "coverage": 1.0}
    told = advise(FINGERPRINT, small)
    assert told[0].startswith("your objects span about 310 pixels (cell, median), this model sees 190: ")
    assert "the smallest objects (dot) span about 5 pixels" in told[1]
    assert advise(FINGERPRINT, {"size": 400, "coverage": 1.0}, 120)[0].startswith(
        "your objects span about 310 pixels (cell, median), and nine tenths of what moves a score lie within 120: "
    )
    assert advise(FINGERPRINT, {"size": 400, "coverage": 1.0})[0].endswith(
        "this model sees 400: enough to see one whole"
    )
    assert advise(FINGERPRINT, {"size": None, "coverage": 1.0})[0].endswith(
        "sees the whole image, 360x480 at the median"
    )
    assert any("only 31 % of the positions" in line for line in advise(FINGERPRINT, {"size": 400, "coverage": 0.31}))
    large = {**FINGERPRINT, "classes": [{"name": "cell", "objects": 1, "object_pixels": 100.0}]}
    assert any("a shallower model may do" in line for line in advise(large, {"size": 900, "coverage": 1.0}))
    assert advise({**FINGERPRINT, "classes": []}, small) == (
        "the masks hold no objects whose size could be compared with what the model sees",
    )


def test_the_advice_comes_from_the_folder(tiny_data: Path) -> None:
    inspection = inspect_model("unet", settings=["model.width=0.0625"], data=tiny_data)
    assert inspection.to_json()["advice"][0].startswith("your objects span about ")


def test_the_effective_field_is_the_gradient_of_one_score() -> None:
    torch.manual_seed(0)
    model = create_model("unet", num_classes=3, width=0.0625).eval()
    images = torch.randn(1, 3, 48, 64)
    found = effective_field(model, images, row=20, column=30, label=1)
    assert found.gradient.sum() == pytest.approx(1, abs=1e-5)
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf).logits[0, 1, 20, 30], leaf)
    expected = gradient.abs().sum(dim=(0, 1))
    np.testing.assert_allclose(found.gradient, expected / expected.sum(), atol=1e-6)
    half = found.size // 2
    inside = found.gradient[max(20 - half, 0) : 21 + half, max(30 - half, 0) : 31 + half].sum()
    smaller = found.gradient[max(21 - half, 0) : 20 + half, max(31 - half, 0) : 30 + half].sum()
    assert smaller < 0.9 <= inside + 1e-5
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("checkpoint") / "hdnet.safetensors"
    model = create_model("hdnet", num_classes=3, backbone="test_resnet", windows=[3, 5])
    save_checkpoint(model, path, classes=ClassTable(("road", "sky", "car"), ((9, 9, 9), (0, 0, 255), (255, 0, 0))))
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)).save(path)
    return path


def test_a_pixel_is_explained_with_pictures(
    checkpoint: Path, picture: Path, tmp_path: Path, run_command: Callable[..., Any]
) -> None:
    out = tmp_path / "why"
    command = ("inspect", "--checkpoint", checkpoint, "--image", picture, "--pixel", "40,70", "--class", "sky")
    result = run_command(*command, "--out", out, "--json", tmp_path / "why.json")
    assert result.code == 0, result.stderr
    told = json.loads((tmp_path / "why.json").read_text(encoding="utf-8"))["pixel"]
    assert (told["row"], told["column"], told["class"]) == (40, 70, "sky")
    assert sum(told["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert set(told["ranges"]["spatial.1"]) == {"avg", "max"}
    assert all(-1 <= value <= 1 for value in told["ranges"]["spatial.1"]["avg"].values())
    assert len(told["pictures"]) == 3
    for entry in told["pictures"]:
        with Image.open(entry["path"]) as shown:
            assert shown.width > 300
            assert np.asarray(shown.convert("L")).std() > 5
    assert re.search(r"pixel 40,70 of .*photo\.png: \w+ 0\.\d{3}", result.stdout)


def test_faults_of_pixels_are_named(checkpoint: Path, picture: Path, run_command: Callable[..., Any]) -> None:
    for words, message in (
        (("--pixel", "40;70"), "--pixel takes ROW,COL, for example 120,340; got '40;70'"),
        (("--pixel", "64,0"), "the pixel 64,0 lies outside of the 64x96 image"),
        (("--class", "tree"), "the model has no class 'tree'; it has road, sky, car"),
    ):
        result = run_command("inspect", "--checkpoint", checkpoint, "--image", picture, *words)
        assert (result.code, result.stderr) == (2, f"error: {message}\n")
    with pytest.raises(UsageError, match=r"^--pixel and --class explain a pixel of an image; give it with --image$"):
        inspect_model("unet", pixel=(1, 1))
    model = create_model("unet", num_classes=2, width=0.0625).eval()
    with pytest.raises(UsageError, match=r"^the model has classes 0..1, not 2$"):
        effective_field(model, torch.zeros(1, 3, 16, 16), label=2)
    with pytest.raises(UsageError, match=r"^the pixel 0,16 lies outside of the 16x16 image$"):
        explain_pixel(model, torch.zeros(1, 3, 16, 16), row=0, column=16, names=["a", "b"])
