# SPDX-License-Identifier: Apache-2.0
"""`denseg eval --output-stride`: one trained network at other strides than its own."""

from __future__ import annotations

import json

import pytest
import torch

from denseg.cli import main
from denseg.inference import Predictor
from denseg.models import create_model, load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def stored(tmp_path_factory, make_pairs):
    root = tmp_path_factory.mktemp("strides")
    make_pairs(root / "data", {"val": 2})
    torch.manual_seed(0)
    model = create_model("deeplab_v3", num_classes=3, backbone="test_resnet", channels=16, output_stride=16)
    save_checkpoint(model, root / "model.safetensors", halo={"pixels": None, "reason": "it sees the whole image"})
    return root, model.eval()


def run(root, *options):
    return main(["eval", str(root / "model.safetensors"), str(root / "data"), "--device", "cpu", *options])


def test_weights_stay_and_rates_follow(stored):
    root, model = stored
    loaded = load_checkpoint(root / "model.safetensors", output_stride=8)
    assert loaded.metadata["halo"] is None, "the network sees another distance now"
    assert loaded.metadata["model"]["arguments"]["output_stride"] == 8
    other = create_model("deeplab_v3", num_classes=3, backbone="test_resnet", channels=16, output_stride=8).eval()
    other.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        assert torch.equal(loaded.model(x).logits, other(x).logits)
        assert loaded.model(x).heatmap.shape == (1, 3, 6, 8)
    assert [branch.conv.dilation[0] for branch in loaded.model.aspp.atrous] == [12, 24, 36]


def test_one_stride_scores_as_usual(stored, capsys):
    root, _ = stored
    assert run(root, "--output-stride", "8", "--json", "-") == 0
    result = json.loads(capsys.readouterr().out)
    predictor = Predictor.load(root / "model.safetensors", device="cpu", output_stride=8)
    assert predictor.metadata["model"]["arguments"]["output_stride"] == 8
    assert result["images"] == 2
    own = Predictor.load(root / "model.safetensors", device="cpu")
    image = next((root / "data" / "images" / "val").iterdir())
    assert abs(predictor.probabilities(image) - own.probabilities(image)).max() > 1e-6


def test_several_strides_give_a_table(stored, capsys):
    root, _ = stored
    assert run(root, "--output-stride", "8,16") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "val: 2 images; time and memory for one image of 512x512 on cpu"
    assert lines[2].split() == ["output", "stride", "mIoU", "interval", "pixel", "accuracy", "time", "memory"]
    assert [line.split()[0] for line in lines[3:5]] == ["8", "16"]
    assert ["(trained)" in line for line in lines[3:5]] == [False, True]
    assert run(root, "--output-stride", "8,16", "--json", "-") == 0
    rows = json.loads(capsys.readouterr().out)["strides"]
    assert [row["output_stride"] for row in rows] == [8, 16]
    assert rows[0]["speed"]["memory"] > rows[1]["speed"]["memory"]
    assert run(root, "--json", "-") == 0
    assert rows[1]["miou"] == json.loads(capsys.readouterr().out)["miou"]


def test_what_cannot_be_done_is_said_in_a_line(stored, tmp_path, capsys):
    root, _ = stored
    for option, message in (
        ("eight", "--output-stride takes numbers such as 8 or 8,16,32; got 'eight'"),
        ("8,8", "--output-stride names a stride twice: 8,8"),
        ("64", "backbone 'test_resnet' has output stride 32; it can be made smaller, not 64"),
    ):
        assert run(root, "--output-stride", option) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    unet = create_model("unet", num_classes=3, backbone="test_resnet")
    save_checkpoint(unet, tmp_path / "unet.safetensors")
    assert main(["eval", str(tmp_path / "unet.safetensors"), str(root / "data"), "--output-stride", "8"]) == 2
    assert (
        f"{tmp_path / 'unet.safetensors'} holds a unet whose weights depend on the output stride; train it again at 8"
        in " ".join(capsys.readouterr().err.split())
    )
