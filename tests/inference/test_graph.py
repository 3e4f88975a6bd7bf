# SPDX-License-Identifier: Apache-2.0
"""Exported graphs, and the file that runs them with numpy and onnxruntime alone."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest

from denseg.data.samples.normalization import Normalization
from denseg.errors import UsageError
from denseg.inference import Predictor
from denseg.inference.bundle import runtime_source
from denseg.inference.engines import EngineChoice, OpenVinoScores, choose_engine
from denseg.inference.graph import Graph, fixed_size, write_onnx
from denseg.inference.portable import ExportedModel, OnnxScores
from denseg.inference.strategy import TileOptions
from denseg.types import ClassTable
from denseg.workflows.export import describe

WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "denseg", "scipy", "PIL"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import numpy as np
from denseg_runtime import ExportedModel
image = np.load("image.npy")
for name, tile in (("whole", None), ("tiled", int(sys.argv[1]))):
    model = ExportedModel("model.onnx", tile=tile, threads=1)
    print(model.strategy(*image.shape[:2]).mode, len(model.strategy(*image.shape[:2]).plan))
    np.save(name + ".npy", model.predict(image))
np.save("probabilities.npy", model.probabilities(image))
"""


def predictor_of(model, **options):
    normalization = Normalization((0.4,) * model.in_channels, (0.2,) * model.in_channels, 255.0)
    classes = ClassTable.numbered(model.num_classes)
    return Predictor(model, classes=classes, normalization=normalization, options=TileOptions(**options))


def write(predictor, folder):
    side = fixed_size(predictor.tiled.geometry, 92)
    write_onnx(
        Graph(predictor.tiled.model, predictor.normalization), folder / "model.onnx",
        document=describe(predictor, side), side=side,
    )  # fmt: skip
    (folder / "denseg_runtime.py").write_text(runtime_source(), encoding="utf-8")


@pytest.fixture(scope="module")
def exported(build, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    predictor = predictor_of(build("unet", depth=1, up="bilinear"))
    write(predictor, folder)
    return folder, predictor


def picture(height, width, bands=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, bands), dtype=np.uint8)


def test_runs_without_torch(exported):
    folder, predictor = exported
    image = picture(61, 90)
    np.save(folder / "image.npy", image)
    command = [sys.executable, "-c", WITHOUT, "48"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    plan = predictor_of(predictor.tiled.model, tile=48).strategy(61, 90).plan
    assert done.stdout.split() == ["whole", "1", "halo", str(len(plan))]
    labels, probabilities = predictor.predict(image), predictor.probabilities(image)
    for name in ("whole", "tiled"):
        assert (np.load(folder / f"{name}.npy") != labels).mean() < 1e-3
    np.testing.assert_allclose(np.load(folder / "probabilities.npy"), probabilities, atol=1e-5)


def test_the_runtime_is_plain_python_of_numpy():
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(ast.parse(runtime_source()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert imported - set(sys.stdlib_module_names) == {
        "numpy",
        "onnxruntime",
        "denseg",  # a name that it can miss
        "scipy",  # both only where labels are cleaned, and told where they are not there
        "skimage",
    }


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (64, 33)])
def test_any_size_and_missing_values(exported, size):
    folder, predictor = exported
    model = ExportedModel(folder / "model.onnx", threads=1)
    image = picture(*size).astype(np.float32)
    image[0, 0, 1] = np.nan
    np.testing.assert_allclose(model.probabilities(image), predictor.probabilities(image), atol=1e-5)
    gray = ExportedModel(folder / "model.onnx", threads=1, tile=32)
    np.testing.assert_allclose(gray.probabilities(image), predictor.probabilities(image), atol=1e-5)


def test_a_model_of_its_own_sizes(build, tmp_path):
    predictor = predictor_of(build("valid"))
    write(predictor, tmp_path)
    model = ExportedModel(tmp_path / "model.onnx", threads=1)
    assert model.document["tiling"]["side"] == 92
    for size in ((30, 41), (120, 75)):
        image = picture(*size, bands=1)
        np.testing.assert_allclose(model.probabilities(image), predictor.probabilities(image), atol=1e-5)
        assert model.strategy(*size).mode == "overlap_tile"


def test_a_model_that_sees_all_is_blended_alike(build, tmp_path):
    predictor = predictor_of(build("pooled"), tile=32)
    write(predictor, tmp_path)
    model = ExportedModel(tmp_path / "model.onnx", threads=1, tile=32)
    image = picture(70, 50)
    assert model.strategy(70, 50).mode == "blend"
    np.testing.assert_allclose(model.probabilities(image), predictor.probabilities(image), atol=1e-5)


def test_what_the_file_says(exported):
    folder, predictor = exported
    document = OnnxScores(folder / "model.onnx").document
    assert document == describe(predictor, None)
    assert document["classes"] == predictor.classes.to_json()
    assert document["tiling"]["halo"] == predictor.tiled.reach().halo
    assert document["geometry"] == dataclasses.asdict(predictor.tiled.geometry)
    assert b"test_graph" not in (folder / "model.onnx").read_bytes()  # no traces of where it was made
    assert b"conftest" not in (folder / "model.onnx").read_bytes()


def test_files_that_are_no_export(tmp_path, exported):
    (tmp_path / "no.onnx").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"^.*no\.onnx cannot be opened as an ONNX model: "):
        ExportedModel(tmp_path / "no.onnx")
    write_onnx(Graph(exported[1].tiled.model), tmp_path / "bare.onnx")
    message = f"{tmp_path / 'bare.onnx'} was not written by this version of denseg export; export the model again"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        ExportedModel(tmp_path / "bare.onnx")
    message = "an image is (H, W, 3) with at least one pixel, got an array of shape (4, 5)"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        ExportedModel(exported[0] / "model.onnx").predict(np.zeros((4, 5)))


def normalized(predictor, image):
    return predictor.normalization.apply(image)[None]


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A cache, and a file that stands for the weights of one network, so that its graph is written once."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "model.safetensors").write_bytes(b"stands for the weights")

    def choose(predictor, *arguments, **options):
        predictor.path = folder / "model.safetensors"
        return choose_engine(predictor, *arguments, cache=folder, **options)

    return choose


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_an_engine_gives_the_same(build, cached, name):
    if name == "openvino":
        pytest.importorskip("openvino")
    predictor = predictor_of(build("unet", depth=1), tile=32)
    image = picture(75, 60)
    expected = predictor.probabilities(image)
    choice = cached(predictor, name, normalized(predictor, image[:32, :32]))
    assert (choice.name, choice.precision, choice.changed < 1e-2) == (name, "float32", True)
    assert predictor.tiled.fast is not None
    np.testing.assert_allclose(predictor.probabilities(image), expected, atol=1e-5)


def test_auto_stays_with_torch_for_little_work(build):
    predictor = predictor_of(build("unet", depth=1))
    assert choose_engine(predictor, "auto", normalized(predictor, picture(32, 32)), count=30) == EngineChoice("torch")
    assert predictor.tiled.fast is None


def test_auto_remembers(build, tmp_path):
    predictor = predictor_of(build("unet", depth=1))
    predictor.path = tmp_path / "model.safetensors"
    predictor.path.write_bytes(b"stands for the weights")
    windows = normalized(predictor, picture(32, 32))
    first = choose_engine(predictor, "auto", windows, cache=tmp_path)
    assert {"torch", "onnx"} <= set(first.seconds)
    assert first.name == min(first.seconds, key=lambda key: first.seconds[key])
    again = choose_engine(predictor, "auto", windows, cache=tmp_path)
    assert again == dataclasses.replace(first, remembered=True)
    (tmp_path / "engines" / next(path.name for path in (tmp_path / "engines").glob("*.json"))).write_text("{")
    assert not choose_engine(predictor, "auto", windows, cache=tmp_path, count=1).remembered  # a damaged cache is none


def test_engine_with_views(build, cached):
    model = build("unet", depth=1)
    normalization = Normalization((0.4,) * 3, (0.2,) * 3, 255.0)
    predictor = Predictor(model, classes=ClassTable.numbered(3), normalization=normalization, flip=True)
    image = picture(20, 26)
    expected = predictor.probabilities(image)
    cached(predictor, "onnx", normalized(predictor, image))
    np.testing.assert_allclose(predictor.probabilities(image), expected, atol=1e-5)


def test_bfloat16_is_asked_for_and_counted(build):
    predictor = predictor_of(build("unet", depth=1))
    image = picture(48, 48)
    labels = predictor.predict(image)
    choice = choose_engine(predictor, "torch", normalized(predictor, image), precision="bf16")
    changed = (predictor.predict(image) != labels).mean()
    assert choice.changed == pytest.approx(changed)
    assert str(choice).endswith(f"{100 * changed:.2f} % of the labels of one tile differ from 32 bits")


def test_many_shapes_share_a_network(exported):
    pytest.importorskip("openvino")
    folder, _ = exported
    scores, other = OpenVinoScores(folder / "model.onnx", threads=1), OnnxScores(folder / "model.onnx", threads=1)
    for side in (8, 12, 16, 20, 24, 28):
        values = picture(3, side, side).reshape(1, 3, side, side).astype(np.float32)
        np.testing.assert_allclose(scores(values), other(values), atol=1e-4)
    assert len(scores._compiled) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "tensorrt"}, "an engine is auto, torch, onnx, openvino; got 'tensorrt'"),
        ({"name": "auto", "precision": "int8"}, "a precision is float32 or bf16; got 'int8'"),
        (
            {"name": "onnx", "precision": "bf16"},
            "ONNX Runtime computes in float32 here; for bf16 take --engine openvino or torch",
        ),
    ],
)
def test_mistakes_are_said(build, arguments, message):
    predictor = predictor_of(build("unet", depth=1))
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        choose_engine(predictor, windows=normalized(predictor, picture(8, 8)), **arguments)
