# SPDX-License-Identifier: Apache-2.0
"""`denseg predict` as a user runs it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from denseg.cli import main
from denseg.data.samples.normalization import Normalization
from denseg.inference import Predictor
from denseg.models import create_model, save_checkpoint
from denseg.types import ClassTable

CLASSES = ClassTable(("sky", "road", "tree"), ((0, 0, 255), (90, 90, 90), (0, 128, 0)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    torch.manual_seed(0)
    model = create_model("unet", num_classes=3, width=0.0625).eval()
    save_checkpoint(model, path, classes=CLASSES, normalization=Normalization.imagenet().to_json())
    return path


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, (height, width) in {"a.png": (40, 56), "b.jpg": (33, 20), "c.tif": (64, 64), "dot.png": (1, 1)}.items():
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / name)
    return folder


def run(*arguments):
    return main(["predict", *map(str, arguments), "--device", "cpu"])


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_a_folder(checkpoint, images, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(checkpoint, images, "--out", out, "--json", tmp_path / "result.json") == 0
    predictor = Predictor.load(checkpoint, device="cpu")
    for path in images.iterdir():
        labels = read(out / f"{path.stem}.png")
        assert (labels == predictor.predict(path)).all()
        assert read(out / "overlay" / f"{path.stem}.png").shape == (*labels.shape, 3)
    assert sorted(file.name for file in out.iterdir()) == [
        "a.png", "b.png", "c.png", "dot.png", "overlay", "predictions.json",
    ]  # fmt: skip
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == f"4 labelled into {out}"
    assert [line.split()[0] for line in printed.out.splitlines()[1:]] == ["sky", "road", "tree"]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["ok"] is True
    assert [entry["size"] for entry in result["predictions"]] == [[40, 56], [33, 20], [64, 64], [1, 1]]
    assert all(entry["exact"] for entry in result["predictions"])
    assert sum(result["predictions"][0]["pixels"].values()) == 40 * 56


def test_a_glob_and_json_on_stdout(checkpoint, images, tmp_path, capsys):
    assert run(checkpoint, images / "*.png", "--out", tmp_path / "out", "--json", "-") == 0
    result = json.loads(capsys.readouterr().out)
    assert [entry["image"] for entry in result["predictions"]] == [str(images / "a.png"), str(images / "dot.png")]


def test_again_does_only_what_is_missing(checkpoint, images, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(checkpoint, images, "--out", out) == 0
    first = {path: path.read_bytes() for path in out.rglob("*.png")}
    (out / "b.png").unlink()
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    capsys.readouterr()
    assert run(checkpoint, images, "--out", out) == 0
    line = f"1 labelled into {out}, 3 were there already (--overwrite labels them again)"
    assert capsys.readouterr().out.splitlines()[0] == line
    assert {path: path.read_bytes() for path in out.rglob("*.png")} == first
    assert all(path.stat().st_mtime_ns == times[path] for path in times if path.stem != "b")
    assert run(checkpoint, images, "--out", out, "--overwrite") == 0
    assert capsys.readouterr().out.splitlines()[0] == f"4 labelled into {out}"


def test_tiles_give_the_same_labels(checkpoint, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (300, 290, 3), dtype=np.uint8)).save(folder / "x.png")
    assert run(checkpoint, folder, "--out", tmp_path / "whole") == 0
    assert run(checkpoint, folder, "--out", tmp_path / "tiled", "--tile", 256) == 0
    assert (read(tmp_path / "whole" / "x.png") == read(tmp_path / "tiled" / "x.png")).all()


def test_scales_and_flips(checkpoint, images, tmp_path, capsys):
    assert run(checkpoint, images / "a.png", "--out", tmp_path / "out", "--scales", "0.5,1,1.5", "--flip") == 0
    assert read(tmp_path / "out" / "a.png").shape == (40, 56)
    assert run(checkpoint, images / "a.png", "--out", tmp_path / "no", "--scales", "half") == 2
    expected = "error: --scales takes numbers with commas, for example 0.5,1,1.5; got 'half'\n"
    assert capsys.readouterr().err == expected


def test_a_bad_file_is_reported_and_the_others_go_on(checkpoint, images, tmp_path, capsys):
    data = (images / "a.png").read_bytes()
    (images / "cut.png").write_bytes(data[: len(data) // 2])
    (images / "empty.png").touch()
    np.save(images / "text.npy", np.zeros(3))
    assert run(checkpoint, images, "--out", tmp_path / "out", "--json", tmp_path / "r.json") == 1
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert str(images / "cut.png") in errors[0]
    assert str(images / "empty.png") in errors[1]
    assert printed.out.splitlines()[0] == f"4 labelled into {tmp_path / 'out'}, 2 failed"
    failed = json.loads((tmp_path / "r.json").read_text())["failed"]
    assert [entry["image"] for entry in failed] == [str(images / "cut.png"), str(images / "empty.png")]
    assert not (tmp_path / "out" / "cut.png").exists()


def test_wrong_bands_are_one_failure(checkpoint, images, tmp_path, capsys):
    import tifffile

    tifffile.imwrite(images / "five.tif", np.random.default_rng(0).integers(0, 9, (5, 20, 30), dtype=np.uint8),
                     photometric="minisblack", planarconfig="separate")  # fmt: skip
    assert run(checkpoint, images, "--out", tmp_path / "out") == 1
    error = f"error: {images / 'five.tif'}: 5 bands, expected 3; convert it or remove it\n"
    assert capsys.readouterr().err == error


def test_results_of_two_models_are_not_mixed(checkpoint, images, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(checkpoint, images / "a.png", "--out", out) == 0
    other = tmp_path / "other.safetensors"
    model = create_model("unet", num_classes=3, width=0.0625)
    save_checkpoint(model, other, classes=CLASSES, normalization=Normalization.imagenet().to_json())
    capsys.readouterr()
    assert run(other, images, "--out", out) == 1
    assert capsys.readouterr().err == (
        f"error: {out} holds the results of another model or other options ({checkpoint.resolve()}); "
        "choose another --out, or label all again with --overwrite\n"
    )
    assert run(other, images, "--out", out, "--overwrite") == 0


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["absent"], "there is no file or folder absent"),
        (["*.nothing"], "no file matches *.nothing"),
    ],
)
def test_inputs_that_are_not_there(checkpoint, tmp_path, capsys, monkeypatch, inputs, message):
    monkeypatch.chdir(tmp_path)
    assert run(checkpoint, *inputs, "--out", "out") == 1
    assert capsys.readouterr().err == f"error: {message}\n"


def test_a_model_that_is_not_there(images, tmp_path, capsys):
    assert run(tmp_path / "no.safetensors", images, "--out", tmp_path / "out") == 1
    error = f"error: no checkpoint {tmp_path / 'no.safetensors'}: there is no such file or folder\n"
    assert capsys.readouterr().err == error
    assert not (tmp_path / "out").exists()


def test_ranks_share_the_pictures(checkpoint, images, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert run(checkpoint, images, "--out", out) == 0
        assert len(list(out.glob("*.png"))) == 2 * (int(rank) + 1)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_large_and_geo_referenced_tiffs_become_tiffs(checkpoint, tmp_path, monkeypatch, capsys):
    import tifffile

    from denseg.workflows import labelling

    monkeypatch.setattr(labelling, "LARGE", 90_000)
    folder = tmp_path / "in"
    folder.mkdir()
    keys = (1, 1, 0, 1, 1024, 0, 1, 2)
    tifffile.imwrite(folder / "geo.tif", noise(50, 60), photometric="rgb", extratags=[(34735, "H", 8, keys, True)])
    tifffile.imwrite(folder / "large.tif", noise(310, 300), photometric="rgb", tile=(64, 64), compression="zlib")
    tifffile.imwrite(folder / "small.tif", noise(40, 50), photometric="rgb")
    Image.fromarray(noise(320, 300)).save(folder / "wide.png")  # only TIFF can be read in windows
    out = tmp_path / "out"
    assert run(checkpoint, folder, "--out", out, "--tile", 256, "--json", tmp_path / "r.json") == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == ["geo.tif", "large.tif", "overlay", "predictions.json", "small.png", "wide.png"]
    assert sorted(path.name for path in (out / "overlay").iterdir()) == [
        "geo.tif",
        "large.tif",
        "small.png",
        "wide.png",
    ]
    predictor = Predictor.load(checkpoint, device="cpu")
    for name in ("geo", "large"):
        assert (tifffile.imread(out / f"{name}.tif") == predictor.predict(folder / f"{name}.tif")).all()
    with tifffile.TiffFile(out / "geo.tif") as file:
        assert file.pages[0].tags[34735].value == keys
    results = json.loads((tmp_path / "r.json").read_text())["predictions"]
    assert [entry["size"] for entry in results] == [[50, 60], [310, 300], [40, 50], [320, 300]]
    capsys.readouterr()
    assert run(checkpoint, folder, "--out", out, "--tile", 256) == 0
    line = f"0 labelled into {out}, 4 were there already (--overwrite labels them again)"
    assert capsys.readouterr().out == line + "\n"


def test_approximate_tiles_are_said(tmp_path, monkeypatch, capsys):
    import tifffile

    from denseg.workflows import labelling

    path = tmp_path / "fcn.safetensors"
    torch.manual_seed(0)
    model = create_model("deeplab_v3_plus", num_classes=3, backbone="test_resnet", output_stride=32)
    save_checkpoint(model.eval(), path, classes=CLASSES, normalization=Normalization.imagenet().to_json())
    Image.fromarray(noise(150, 140)).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", noise(150, 140), photometric="rgb")
    monkeypatch.setattr(labelling, "LARGE", 1000)
    assert run(path, tmp_path / "a.png", tmp_path / "b.tif", "--out", tmp_path / "out", "--tile", 128) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    assert notes[0] == (
        "note      tiles are an approximation for large pictures: the model sees the whole image at once"
    )
    said = "note      b.tif: tiles are an approximation here (the model sees the whole image at once); where they "
    assert notes[1].startswith(said)


def test_pages_of_a_stack_are_labelled_apart(checkpoint, tmp_path):
    import tifffile

    stack = np.stack([noise(40, 50, seed=page)[:, :, 0] for page in range(12)])
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack")
    out = tmp_path / "out"
    assert run(checkpoint, tmp_path / "stack.tif", "--out", out) == 0
    assert [path.name for path in sorted(out.glob("*.png"))] == [f"stack-{page:02d}.png" for page in range(12)]
    predictor = Predictor.load(checkpoint, device="cpu")
    for page in (0, 11):
        assert (read(out / f"stack-{page:02d}.png") == predictor.predict(stack[page])).all()


def test_levels_of_a_pyramid_are_no_pages(checkpoint, tmp_path):
    import tifffile

    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as file:
        file.write(noise(64, 64), photometric="rgb", subifds=1)
        file.write(noise(32, 32), photometric="rgb", subfiletype=1)
    assert run(checkpoint, tmp_path / "pyramid.tif", "--out", tmp_path / "out") == 0
    assert read(tmp_path / "out" / "pyramid.png").shape == (64, 64)


def test_bands_stored_as_pages_are_refused(checkpoint, tmp_path, capsys):
    import tifffile

    path = tmp_path / "channels.tif"
    tifffile.imwrite(
        path, np.zeros((3, 40, 50), np.uint8), ome=True, metadata={"axes": "CYX"}, photometric="minisblack"
    )
    assert run(checkpoint, path, "--out", tmp_path / "out") == 1
    assert capsys.readouterr().err == (
        f"error: {path}: its bands are stored as pages (axes CYX), which is not read; "
        "save them as the bands of one page\n"
    )


def test_probabilities(checkpoint, images, tmp_path):
    import tifffile

    out = tmp_path / "out"
    assert run(checkpoint, images / "a.png", "--out", out, "--probabilities") == 0
    probabilities = tifffile.imread(out / "probabilities" / "a.tif")
    assert probabilities.shape == (3, 40, 56)
    assert (probabilities == Predictor.load(checkpoint, device="cpu").probabilities(images / "a.png")).all()
    assert (read(out / "a.png") == probabilities.argmax(axis=0)).all()


def test_images_beyond_the_limit_are_refused_unless_it_is_raised(checkpoint, images, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(checkpoint, images / "a.png", "--out", out, "--max-pixels", 2000) == 1
    assert capsys.readouterr().err == (
        f"error: {images / 'a.png'}: 56 x 40 pixels = 2240, more than the limit of 2000; cut the picture into tiles, "
        "or raise the limit with --max-pixels 2240\n"
    )
    assert run(checkpoint, images / "a.png", "--out", out, "--max-pixels", 2240) == 0
