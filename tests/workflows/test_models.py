# SPDX-License-Identifier: Apache-2.0
"""What `denseg models` and `denseg inspect` say agrees with the models themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from denseg.errors import UsageError
from denseg.layers.catalog import LAYERS
from denseg.losses.catalog import LOSSES
from denseg.models import MODELS, create_model, save_checkpoint
from denseg.workflows.inspect import inspect_model
from denseg.workflows.models import Catalogs, header_of, list_models


@pytest.fixture(scope="module")
def catalogs() -> Catalogs:
    return list_models()


def test_everything_is_listed(catalogs: Catalogs) -> None:
    assert [row["name"] for row in catalogs.models] == sorted(MODELS)
    assert [row["name"] for row in catalogs.layers] == sorted(LAYERS)
    assert [row["name"] for row in catalogs.losses] == sorted(LOSSES)
    assert {"resnet", "vgg", "convnext"} <= {row["name"] for row in catalogs.backbones}
    for row in catalogs.models:
        assert row["url"].startswith("https://"), row["name"]
    text = "\n".join(catalogs.lines())
    assert all(name in text for name in (*MODELS, *LAYERS, *LOSSES))


def test_parameters_are_counted(catalogs: Catalogs) -> None:
    counted = {row["name"]: row["parameters"] for row in catalogs.models}
    model = create_model("unet", num_classes=21)
    assert counted["unet"] == sum(parameter.numel() for parameter in model.parameters())


def test_header() -> None:
    header = header_of(MODELS["unet"].modern)
    assert header["paper"].startswith('O. Ronneberger, P. Fischer, T. Brox, "U-Net')
    assert header["url"] == "https://arxiv.org/abs/1505.04597"
    plain = header_of(LOSSES["cross_entropy"])
    assert plain == {"paper": "Cross-entropy over the pixels that carry a label", "url": ""}


def test_inspection_adds_up() -> None:
    inspection = inspect_model(
        "deeplab_v3_plus", backbone="resnet18", size=(65, 129), settings=["model.output_stride=8"]
    )
    assert inspection.complexity.output_stride == 8
    document = inspection.to_json()
    assert sum(row["parameters"] for row in document["layers"]) == document["parameters"]
    assert sum(row["macs"] for row in document["layers"]) == document["macs"]
    assert 0 < document["backbone_parameters"] < document["parameters"]
    assert document["arguments"]["backbone"] == "resnet18"


def test_inspection_builds_nothing() -> None:
    state = torch.random.get_rng_state()
    inspect_model("unet", size=(32, 32))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_paper_form_and_width() -> None:
    assert (
        inspect_model(
            "unet", size=(572, 572), num_classes=2, settings=["model.form=paper", "model.in_channels=1"]
        ).complexity.parameters
        == 31_030_658
    )
    small = inspect_model("unet", size=(64, 64), settings=["model.width=0.5"]).complexity.parameters
    assert small < inspect_model("unet", size=(64, 64)).complexity.parameters / 3


def test_checkpoint_knows_itself(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(create_model("unet", num_classes=4, width=0.0625), path)
    inspection = inspect_model(checkpoint=path, size=(64, 64))
    assert inspection.spec.arguments["num_classes"] == 4
    with pytest.raises(UsageError) as caught:
        inspect_model(checkpoint=path, backbone="resnet18")
    assert str(caught.value) == "a checkpoint knows its backbone and options; leave --backbone and --set out"
