# SPDX-License-Identifier: Apache-2.0
"""Pictures of what a trained network makes of an image."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from denseg.errors import ImageError, UsageError
from denseg.layers import LAYERS
from denseg.models import create_model, load_checkpoint, save_checkpoint
from denseg.training.state import load_state, take
from denseg.workflows.inspect_features import FeatureReport, class_centers, context_of, draw_features
from denseg.workflows.train import train


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "street.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One step of HDNet with its loss."""
    out = tmp_path_factory.mktemp("run") / "hdnet"
    settings = ["model.name=hdnet", "model.backbone=test_resnet", "train.iterations=2", "train.batch_size=2",
                "train.crop=32", "train.workers=0", "train.loss={cross_entropy: 1.0, hfd: 0.1}"]  # fmt: skip
    train(tiny_data, settings=settings, out=out, device="cpu", progress=False)
    return out


@pytest.fixture(scope="module")
def report(run: Path, image: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureReport:
    return draw_features(run, image, tmp_path_factory.mktemp("out") / "pictures")


def checkpoint(folder: Path, name: str, **options: Any) -> Path:
    torch.manual_seed(0)
    path = folder / f"{name}.safetensors"
    save_checkpoint(create_model(name, num_classes=3, backbone="test_resnet", **options), path)
    return path


def test_hdnets_pictures(report: FeatureReport, image: Path) -> None:
    names = [drawing.path.name for drawing in report.drawings]
    assert names == [
        "street-spatial-1-relations.png",
        "street-spatial-1-attention.png",
        "street-spatial-1-jumps.png",
        "street-channel-1-jumps.png",
        "street-centers.png",
    ]
    for drawing in report.drawings:
        assert np.asarray(Image.open(drawing.path)).std() > 5, "the picture shows something"
    relations, attention, *_, centers = report.drawings
    assert len(relations.facts) == 14
    assert relations.facts.keys() >= {"avg 3 (24 px)", "max 19 (152 px)"}
    assert all(-1 <= value <= 1 for value in relations.facts.values())
    assert attention.facts["largest"] >= attention.facts["mean"] >= 0
    assert centers.shows == "distance to class centres: centres of the HFD loss"
    assert json.loads(json.dumps(report.to_json()))[0]["path"] == str(relations.path)
    text = "\n".join(report.lines())
    assert f"pictures of {image}" in text
    assert "share at 0" in text


def test_the_numbers_are_those_of_the_layers(report: FeatureReport, run: Path, image: Path) -> None:
    model, metadata = load_checkpoint(run)
    pixels = np.asarray(Image.open(image)).astype(np.float32).transpose(2, 0, 1) / 255
    mean, std = (np.array(metadata["normalization"][key], np.float32)[:, None, None] for key in ("mean", "std"))
    x = torch.from_numpy((pixels - mean) / std)[None]
    with torch.no_grad():
        level = model.spatial[0](model.backbone(x)[-1])
        u = model.spatial[1].attention(level)
        output = model(x)
    assert report.drawings[1].facts["mean"] == pytest.approx(float(u.mean()), rel=1e-4)
    table = take(load_state_of(run), "loss")["members.hfd.table"]
    labels = F.interpolate(output.logits.argmax(dim=1)[:, None].float(), size=(5, 7), mode="nearest-exact")[0, 0].long()
    cosine = F.cosine_similarity(output.features[0].flatten(1).T, table[labels.flatten()], dim=1)
    k = int(labels.flatten()[0])
    expected = 1 - cosine[labels.flatten() == k].mean()
    name = metadata["classes"]["names"][k]
    assert report.drawings[-1].facts[f"distance to {name}"] == pytest.approx(float(expected), rel=1e-3)


def load_state_of(run: Path) -> dict[str, torch.Tensor]:
    from denseg.runs import RunFolder

    state = load_state(RunFolder.open(run))
    assert state is not None
    return state.tensors


def test_without_the_losss_table_centres_are_the_images_own(tmp_path: Path) -> None:
    features = torch.randn(1, 4, 2, 3)
    labels = torch.tensor([[0, 0, 2], [2, 2, 0]]).repeat_interleave(4, 0).repeat_interleave(4, 1)
    centers, source = class_centers(tmp_path, features, labels, 3)
    assert source == "this image's mean of each predicted class"
    rows = features[0].flatten(1).T
    torch.testing.assert_close(centers[0], F.normalize(rows[[0, 1, 5]].sum(dim=0), dim=0))
    assert bool(centers[1].isnan().all())


@pytest.mark.parametrize(
    ("name", "place"), [("pspnet", "pyramid"), ("nonlocal", "block"), ("danet", "position-1"), ("emanet", "attention")]
)
def test_every_context_layer_is_drawn(name: str, place: str, image: Path, tmp_path: Path) -> None:
    report = draw_features(checkpoint(tmp_path, name), image, tmp_path / "out")
    assert f"street-{place}-jumps.png" in [drawing.path.name for drawing in report.drawings]


def test_context_is_what_a_layer_adds() -> None:
    x = torch.randn(1, 16, 6, 7)
    pyramid, dense = LAYERS["pyramid_pooling"](16).eval(), LAYERS["position_attention"](16)
    torch.nn.init.ones_(dense.gamma)
    dilated = LAYERS["dilated_context"](16).eval()
    relating = LAYERS["location_aware_attention"](16).eval()
    with torch.no_grad():
        torch.testing.assert_close(context_of(pyramid, x, pyramid(x)), pyramid(x)[:, 16:])
        torch.testing.assert_close(context_of(dense, x, dense(x)), dense(x) - x)
        torch.testing.assert_close(context_of(dilated, x, dilated(x)), dilated(x))
        assert context_of(relating, x, relating(x)).shape == (1, 14, 6, 7)


def test_messages(tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint(tmp_path, "fcn")
    deep = tmp_path / "deep.png"
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(deep)
    message = f"{deep} has uint16 pixels, the model was trained on values of 0..255; bring them to that range"
    with pytest.raises(ImageError, match=f"^{re.escape(message)}$"):
        draw_features(path, deep, tmp_path)
    monkeypatch.setattr("denseg.workflows.inspect_features.MAX_PIXELS", 1000)
    message = f"{image} has 40x56 pixels, and the network must see it whole; cut a part of at most 1,000 pixels"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        draw_features(path, image, tmp_path)
    bare = tmp_path / "bare.safetensors"
    save_checkpoint(create_model("fcn", num_classes=2, in_channels=1, backbone="test_resnet"), bare)
    message = f"{bare} does not say how its images were normalised; give a run or a checkpoint of one"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        draw_features(bare, image, tmp_path)
    paper = tmp_path / "paper.safetensors"
    save_checkpoint(create_model("unet", num_classes=2, form="paper", width=0.0625), paper)
    message = f"the network of {paper} takes only sizes of its own; pictures are drawn of any-size models"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        draw_features(paper, image, tmp_path)


def test_the_command(run_command: Callable[..., Any], run: Path, image: Path, tmp_path: Path) -> None:
    result = run_command("inspect", "hdnet", "--checkpoint", run, "--image", image, "--out", tmp_path, "--kernels")
    assert result.code == 0
    assert "kernels 3x3" in result.stdout
    assert str(tmp_path / "street-spatial-1-relations.png") in result.stdout
    written = json.loads(run_command("inspect", "fcn", "--backbone", "test_resnet", "--kernels", "--json", "-").stdout)
    assert [entry["size"] for entry in written["kernels"]] == [3]
    assert np.max(written["kernels"][0]["weights"]) <= 1
    wrong = run_command("inspect", "danet", "--checkpoint", run)
    assert wrong.stderr == f"error: {run} holds the model 'hdnet', not 'danet'\n"
    assert wrong.code == 2


def test_a_network_without_such_kernels_says_so(run_command: Callable[..., Any], tmp_path: Path) -> None:
    from denseg.workflows.inspect_kernels import KernelReport

    assert KernelReport(()).lines() == ["", "kernels        none of odd side 3 or more"]
    assert KernelReport(()).to_json() == []
