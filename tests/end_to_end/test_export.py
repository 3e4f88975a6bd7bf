# SPDX-License-Identifier: Apache-2.0
"""`denseg export` as a user runs it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from denseg.cli import main
from denseg.data.samples.normalization import Normalization
from denseg.inference import Predictor
from denseg.inference.portable import ExportedModel
from denseg.models import create_model, save_checkpoint
from denseg.types import ClassTable

CLASSES = ClassTable(("sky", "road", "tree"), ((0, 0, 255), (90, 90, 90), (0, 128, 0)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    torch.manual_seed(0)
    model = create_model("unet", num_classes=3, width=0.0625).eval()
    save_checkpoint(
        model, path, classes=CLASSES, normalization=Normalization.imagenet().to_json(),
        calibration={"temperature": 2.0}, halo={"pixels": 16, "reason": "stored"},
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, size in {"a.png": (40, 56), "b.jpg": (133, 20)}.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


def run(*arguments):
    return main(["export", *map(str, arguments)])


def test_onnx(checkpoint, pictures, tmp_path, capsys):
    out = tmp_path / "deep" / "model.onnx"
    assert run(checkpoint, "--format", "onnx", "--out", out, "--images", pictures, "--json", tmp_path / "r.json") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"written   {out}, {out.parent / 'denseg_runtime.py'} (")
    assert printed[1] == "inside    3 classes, normalisation, tiles (halo, halo 16 pixels)"
    assert "labels agree with torch on 2 pictures" in printed[2]
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["parity"]["ok"] is True
    assert result["parity"]["agreement"] > 0.999
    assert result["parity"]["largest"] < 1e-4
    assert result["document"]["calibration"] == {"temperature": 2.0}
    image = np.asarray(Image.open(pictures / "a.png"))
    model, predictor = ExportedModel(out), Predictor.load(checkpoint, device="cpu")
    assert model.classes == list(CLASSES.names)
    np.testing.assert_allclose(model.probabilities(image), predictor.probabilities(image), atol=1e-5)
    assert (model.predict(image) == predictor.predict(image)).mean() > 0.999


def test_pt2_beside_the_checkpoint(checkpoint, capsys):
    assert run(checkpoint, "--format", "pt2") == 0
    assert "on noise, for there were no pictures (--images)" in capsys.readouterr().out
    extra = {"denseg.json": ""}
    torch.export.load(checkpoint.with_suffix(".pt2"), extra_files=extra)
    assert json.loads(extra["denseg.json"])["classes"]["names"] == list(CLASSES.names)


@pytest.mark.slow
def test_openvino(checkpoint, pictures, tmp_path):
    openvino = pytest.importorskip("openvino")
    assert run(checkpoint, "--format", "openvino", "--out", tmp_path, "--images", pictures) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    model = openvino.Core().read_model(tmp_path / "model.xml")
    assert json.loads(model.get_rt_info(["denseg"]).value)["classes"]["names"] == list(CLASSES.names)


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (("--format", "tflite"), "--format is onnx, openvino, pt2; got 'tflite'", 2),
        (("--out", "model.pb"), "the file of this format ends with .onnx, got model.pb", 2),
    ],
)
def test_mistakes_are_one_line(checkpoint, arguments, message, code, capsys):
    assert run(checkpoint, *arguments) == code
    assert capsys.readouterr().err == f"error: {message}\n"
