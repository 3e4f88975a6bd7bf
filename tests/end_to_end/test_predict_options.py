# SPDX-License-Identifier: Apache-2.0
"""Options of `denseg predict` and `denseg eval` that act after the network, and its engines."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from denseg.cli import main
from denseg.cli.output import complete_crf
from denseg.data.samples.normalization import Normalization
from denseg.inference import CRF_PRESETS, Predictor, dense_crf
from denseg.inference.postprocess import PostProcessing, clean_labels, split_instances
from denseg.models import create_model, load_checkpoint, save_checkpoint
from denseg.types import ClassTable

CLASSES = ClassTable(("sky", "road", "tree"), ((0, 0, 255), (90, 90, 90), (0, 128, 0)))


def save(path, **metadata):
    torch.manual_seed(0)
    model = create_model("unet", num_classes=3, width=0.0625).eval()
    said = {"classes": CLASSES, "normalization": Normalization.imagenet().to_json()} | metadata
    save_checkpoint(model, path, **said)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, size in {"a.png": (48, 64), "b.png": (33, 20)}.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


def run(*arguments):
    return main(["predict", *map(str, arguments), "--device", "cpu"])


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("eval run data --crf", "eval run data --crf=deeplab_v2"),
        ("eval --crf run data", "eval --crf=deeplab_v2 run data"),
        ("eval run data --crf search --flip", "eval run data --crf search --flip"),
        ("predict run x --crf --out y", "predict run x --crf=deeplab_v2 --out y"),
        ("predict run x --crf deconvne --out y", "predict run x --crf deconvne --out y"),
        ("predict run x", "predict run x"),
    ],
)
def test_a_bare_crf_has_a_name(words, expected):
    assert complete_crf(words.split()) == expected.split()


def test_crf(checkpoint, images, tmp_path, capsys):
    assert run(checkpoint, images, "--out", tmp_path, "--crf", "deeplab_v1") == 0
    assert "note      post-processing: dense CRF (49/5 w 4, 3 w 3, 10 iterations)" in capsys.readouterr().out
    predictor = Predictor.load(checkpoint, device="cpu")
    image = read(images / "a.png")
    expected = dense_crf(predictor.probabilities(image), image, "deeplab_v1").argmax(0)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), expected)


def test_a_misspelled_preset(checkpoint, images, tmp_path, capsys):
    assert run(checkpoint, images, "--out", tmp_path, "--crf", "deeplab_v3") == 2
    assert capsys.readouterr().err.startswith("error: no CRF preset named 'deeplab_v3'. Did you mean 'deeplab_v2'?")


def test_what_the_checkpoint_says_is_done_and_can_be_overruled(images, tmp_path):
    stored = PostProcessing(min_area=30)
    path = save(tmp_path / "model.safetensors", postprocessing=stored.to_json())
    predictor = Predictor.load(path, device="cpu")
    assert predictor.postprocessing == stored
    raw = predictor.probabilities(images / "a.png").argmax(0).astype(np.uint8)
    assert run(path, images, "--out", tmp_path / "one") == 0
    np.testing.assert_array_equal(read(tmp_path / "one" / "a.png"), clean_labels(raw, min_area=30))
    assert run(path, images, "--out", tmp_path / "two", "--min-area", 0, "--fill-holes", 3) == 0
    np.testing.assert_array_equal(read(tmp_path / "two" / "a.png"), clean_labels(raw, fill_holes=3))


def test_regions_instances_variance(checkpoint, images, tmp_path, capsys):
    out, table = tmp_path / "out", tmp_path / "regions.csv"
    words = (checkpoint, images, "--out", out, "--regions", table, "--instances", "tree", "--flip", "--variance")
    assert run(*words) == 0
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    labels = read(out / "a.png")
    by_class = {name: sum(int(r["area_pixels"]) for r in rows if (r["image"], r["class"]) == ("a", name))
                for name in CLASSES.names}  # fmt: skip
    assert by_class == {"sky": 0, "road": int((labels == 1).sum()), "tree": int((labels == 2).sum())}
    np.testing.assert_array_equal(tifffile.imread(out / "instances" / "a.tif"), split_instances(labels == 2))
    variance = tifffile.imread(out / "variance" / "a.tif")
    predictor = Predictor.load(checkpoint, device="cpu")
    image = read(images / "a.png")
    views = np.stack([predictor.probabilities(image), predictor.probabilities(image[:, ::-1].copy())[:, :, ::-1]])
    np.testing.assert_allclose(variance.squeeze(), views.var(axis=0).sum(axis=0), atol=1e-5)
    before = table.read_text()
    assert run(*words) == 0  # all there already: the table is made from the labels
    assert table.read_text() == before
    assert "2 were there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (("--variance",), "a variance needs several views of an image: give --scales, --flip or --turns", 2),
        (("--regions", "x.txt"), "--regions writes .csv or .geojson, got x.txt", 2),
        (("--instances", "car"), "no class named 'car'. Known: road, sky, tree", 2),
        (("--threshold", "road"), "--threshold takes CLASS=PROBABILITY, for example crack=0.3; got 'road'", 2),
        (("--threshold", "car=0.5"), "no class named 'car'. Known: road, sky, tree", 2),
        (("--engine", "tensorrt"), "an engine is auto, torch, onnx, openvino; got 'tensorrt'", 2),
    ],
)
def test_mistakes_are_one_line(checkpoint, images, tmp_path, words, message, code, capsys):
    assert run(checkpoint, images, "--out", tmp_path / "out", *words) == code
    assert capsys.readouterr().err == f"error: {message}\n"


def test_an_engine_by_name(checkpoint, images, tmp_path, capsys):
    assert run(checkpoint, images, "--out", tmp_path / "torch") == 0
    assert run(checkpoint, images, "--out", tmp_path / "onnx", "--engine", "onnx") == 0
    assert re.search(r"note      engine onnx \(onnx \d+ ms, torch \d+ ms per tile\)", capsys.readouterr().out)
    for name in ("a.png", "b.png"):
        assert (read(tmp_path / "torch" / name) != read(tmp_path / "onnx" / name)).mean() < 5e-3


def test_unlike_training_is_told(images, tmp_path, capsys):
    training = {"images": {"height": {"min": 400, "max": 500}, "width": {"min": 400, "max": 500}}}
    path = save(tmp_path / "model.safetensors", training=training)
    assert run(path, images, "--out", tmp_path / "out") == 0
    assert (
        "note      size unlike training in 2 of 2 pictures, first a.png with 48 x 64 pixels; training had 400 to 500 x "
        "400 to 500"
    ) in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_share_the_work(checkpoint, images, tmp_path):
    """As under torchrun: each takes its share, both write into one folder, and again does nothing."""
    out = tmp_path / "out"
    code = "import sys; from denseg.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [
        sys.executable, "-c", code, "predict", checkpoint, images, "--out", out, "--device", "cpu",
        "--regions", tmp_path / "r.csv",
    ]  # fmt: skip
    jobs = [
        subprocess.Popen(command, env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"}, stdout=subprocess.PIPE)
        for rank in (0, 1)
    ]
    said = [job.communicate(timeout=100)[0].decode() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    assert all(text.startswith("1 labelled into") for text in said)
    assert run(checkpoint, images, "--out", tmp_path / "alone") == 0
    for name in ("a.png", "b.png"):
        assert (out / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert {path.name for path in tmp_path.glob("r-*.csv")} == {"r-0.csv", "r-1.csv"}


def test_eval_with_crf_and_search(tiny_data, tmp_path, capsys):
    path = save(tmp_path / "model.safetensors", classes=None)
    words = ["eval", str(path), str(tiny_data), "--device", "cpu", "--json"]
    assert main([*words, str(tmp_path / "plain.json")]) == 0
    assert main([*words, str(tmp_path / "crf.json"), "--crf", "pydensecrf"]) == 0
    assert main([*words, str(tmp_path / "tuned.json"), "--tune"]) == 0
    said = capsys.readouterr().out
    plain, crf, tuned = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("plain", "crf", "tuned"))
    assert crf["miou"] != plain["miou"]
    assert tuned["miou"] >= plain["miou"]
    assert "post-processing, best of " in said
    stored = PostProcessing.from_json(load_checkpoint(path).metadata["postprocessing"])
    assert Predictor.load(path, device="cpu").postprocessing == stored
    assert main([*words, str(tmp_path / "again.json")]) == 0
    assert json.loads((tmp_path / "again.json").read_text())["miou"] == tuned["miou"]


def test_crf_search_follows_the_papers_grid(tiny_data, tmp_path, monkeypatch):
    """What the search tries, with a score that is known everywhere."""
    from denseg.workflows import tune

    class Known(tune.Tuner):
        def __init__(self):
            self.trials = []

        def score(self, steps):
            self.trials.append(tune.Trial(steps, 0.0))
            crf = steps.crf
            if crf is None:
                return 0.1
            return 1 - abs(crf.theta_alpha - 80) / 100 - abs(crf.theta_beta - 4) / 10 - abs(crf.appearance - 6) / 10

    found = Known().search_crf(PostProcessing(min_area=5))
    assert (found.crf.theta_alpha, found.crf.theta_beta, found.crf.appearance, found.min_area) == (80, 4, 6, 5)
    assert (found.crf.theta_gamma, found.crf.smoothness, found.crf.iterations) == (3, 3, 10)
    assert CRF_PRESETS["deeplab_v1"].smoothness == 3


def test_no_search_on_the_test_split(make_pairs, tmp_path, capsys):
    data = make_pairs(tmp_path / "data", {"train": 1, "val": 1, "test": 1})
    path = save(tmp_path / "model.safetensors", classes=None)
    assert main(["eval", str(path), str(data), "--split", "test", "--tune", "--device", "cpu"]) == 2
    assert capsys.readouterr().err.endswith(
        "error: a search on the test split would flatter its scores; take --split val\n"
    )
