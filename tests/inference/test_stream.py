# SPDX-License-Identifier: Apache-2.0
"""Pictures from TIFF to TIFF: the labels of the whole, whatever happens on the way."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch

from denseg.data.reading.windows import TiffWindows
from denseg.data.samples.normalization import Normalization
from denseg.errors import ImageError
from denseg.inference import stream
from denseg.inference.predictor import Predictor
from denseg.inference.strategy import TileOptions
from denseg.inference.stream import stream_labels
from denseg.types import ClassTable

HEIGHT, WIDTH = 620, 530


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("stream") / "scan.tif"
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    keys = (1, 1, 0, 1, 1024, 0, 1, 2)
    tifffile.imwrite(
        path, image, photometric="rgb", tile=(128, 128), compression="zlib", extratags=[(34735, "H", 8, keys, True)]
    )
    return path


def predictor_of(build, kind="unet", **options):
    model = build(kind)
    return Predictor(
        model,
        classes=ClassTable(("a", "b", "c"), ((0, 0, 0), (255, 0, 0), (0, 0, 255))),
        normalization=Normalization.imagenet(),
        options=TileOptions(**options),
    )


def run(predictor, path, out, **options):
    with TiffWindows(path) as windows:
        return stream_labels(predictor, windows, out / "labels.tif", overlay=out / "overlay" / "labels.tif", **options)


def test_labels_are_those_of_the_whole_picture(build, picture, tmp_path):
    steps = []
    streamed = run(predictor_of(build, tile=160), picture, tmp_path, progress=lambda *step: steps.append(step))
    expected = predictor_of(build).predict(picture)
    assert (tifffile.imread(tmp_path / "labels.tif") == expected).all()
    assert streamed.strategy.mode == "halo"
    assert streamed.strategy.exact
    assert streamed.pixels == tuple(np.bincount(expected.ravel(), minlength=3))
    assert streamed.size == (HEIGHT, WIDTH)
    assert streamed.resumed == 0
    count = len(streamed.strategy.plan)
    assert steps == [(number, count) for number in range(1, count + 1)]
    with tifffile.TiffFile(tmp_path / "labels.tif") as file:
        page = file.pages[0]
        assert page.photometric.name == "PALETTE"
        assert (np.asarray(page.colormap)[:, :3] // 257).T.tolist() == [[0, 0, 0], [255, 0, 0], [0, 0, 255]]
        assert page.tags[34735].value == (1, 1, 0, 1, 1024, 0, 1, 2)
        assert len(file.series[0].levels) == 2
    overlay = tifffile.imread(tmp_path / "overlay" / "labels.tif")
    assert overlay.shape == (HEIGHT, WIDTH, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.tif", "overlay"]


def test_windows_are_blended_for_global_models(build, picture, tmp_path):
    predictor = predictor_of(build, "pooled", tile=128, overlap=32)
    streamed = run(predictor, picture, tmp_path)
    assert streamed.strategy.mode == "blend"
    assert streamed.seams.pixels > 0
    assert (tifffile.imread(tmp_path / "labels.tif") == predictor.predict(picture)).all()


@pytest.mark.parametrize(("kind", "memory"), [("unet", 2 << 30), ("pooled", 2 << 30), ("pooled", 400_000)])
def test_work_that_was_stopped_goes_on_and_ends_in_the_same_bytes(build, picture, tmp_path, monkeypatch, kind, memory):
    options = {"tile": 128, "overlap": 48 if kind == "unet" else 32, "memory": memory}
    run(predictor_of(build, kind, **options), picture, tmp_path / "whole")
    expected = {path.name: path.read_bytes() for path in (tmp_path / "whole").rglob("*.tif")}
    monkeypatch.setattr(stream, "FLUSH_SECONDS", 0.0)
    out = tmp_path / "stopped"
    shares = []
    for stop in (1, 2, 1, 2):
        predictor = predictor_of(build, kind, **options)

        def halt(number, total, left=[stop]):  # noqa: B006 - counts down within one run
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(predictor, picture, out, progress=halt)
        assert [path.name for path in out.iterdir()] == [".labels.tif.part"]
    streamed = run(predictor_of(build, kind, **options), picture, out, progress=lambda *step: shares.append(step))
    assert shares[0][0] == 7  # 1 + 2 + 1 + 2 parts were there
    assert streamed.resumed == 6 / shares[-1][1]
    assert {path.name: path.read_bytes() for path in out.rglob("*.tif")} == expected


def test_work_of_another_model_is_not_gone_on_with(build, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "FLUSH_SECONDS", 0.0)

    def halt(number, total):
        raise KeyboardInterrupt

    for other in ({"identity": "another"}, {}):
        with pytest.raises(KeyboardInterrupt):
            run(predictor_of(build, tile=160), picture, tmp_path, progress=halt, **other)
    for damage in (b"", b"{", b'{"signature": 1}', b"[]"):
        (tmp_path / ".labels.tif.part" / "journal.json").write_bytes(damage)
        with pytest.raises(KeyboardInterrupt):
            run(predictor_of(build, tile=160), picture, tmp_path, progress=halt)
    streamed = run(predictor_of(build, tile=160), picture, tmp_path)
    assert streamed.resumed == 1 / len(streamed.strategy.plan)
    assert (tifffile.imread(tmp_path / "labels.tif") == predictor_of(build).predict(picture)).all()


def test_deep_and_many_banded_pictures(build, tmp_path):
    image = np.random.default_rng(1).integers(0, 4000, (300, 280, 3)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", image, photometric="rgb", rowsperstrip=16)
    model = build("unet")
    predictor = Predictor(
        model,
        classes=ClassTable.numbered(3),
        normalization=Normalization((0.03,) * 3, (0.02,) * 3, 65535.0),
        options=TileOptions(tile=128),
    )
    run(predictor, tmp_path / "deep.tif", tmp_path / "out")
    assert (tifffile.imread(tmp_path / "out" / "labels.tif") == predictor.predict(image)).all()
    overlay = tifffile.imread(tmp_path / "out" / "overlay" / "labels.tif")
    assert overlay.std() > 10  # stretched, not black


def test_pixels_that_would_be_misread_are_refused(build, tmp_path):
    tifffile.imwrite(tmp_path / "deep.tif", np.full((300, 280, 3), 4000, np.uint16), photometric="rgb")
    with pytest.raises(ImageError, match=r"deep\.tif: 16-bit pixels up to 4000, the model was trained on values of 0"):
        run(predictor_of(build), tmp_path / "deep.tif", tmp_path / "out")


def test_more_than_256_classes(build, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((70, 60, 3), np.uint8), photometric="rgb")
    model = build("unet", num_classes=300)
    predictor = Predictor(
        model, classes=ClassTable.numbered(300, ignore_index=65535), normalization=Normalization.imagenet()
    )
    run(predictor, tmp_path / "a.tif", tmp_path / "out")
    labels = tifffile.imread(tmp_path / "out" / "labels.tif")
    assert labels.dtype == np.uint16
    with torch.inference_mode():
        assert (labels == predictor.predict(np.zeros((70, 60, 3), np.uint8))).all()
