# SPDX-License-Identifier: Apache-2.0
"""Maps of uncertainty: by their definitions, for sure and unsure models, and as files."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from denseg.data.samples.normalization import Normalization
from denseg.errors import UsageError
from denseg.inference import Predictor
from denseg.inference.uncertainty import has_dropout, uncertainty_maps, write_uncertainty
from denseg.models import create_model, save_checkpoint
from denseg.types import ClassTable


def predictor(name: str = "fcn", **options: object) -> Predictor:
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, **options).eval()  # type: ignore[arg-type]
    return Predictor(model, classes=ClassTable.numbered(3), normalization=Normalization.imagenet())


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


def test_by_definition(image: np.ndarray) -> None:
    found = predictor("unet", width=0.0625)
    probabilities = found.probabilities(image)
    maps = uncertainty_maps(found, image, probabilities)
    assert set(maps) == {"entropy", "margin", "views"}
    p = probabilities[:, 7, 11]
    assert maps["entropy"][7, 11] == pytest.approx(-(p * np.log(p)).sum() / math.log(3), rel=1e-4)
    ordered = np.sort(p)
    assert maps["margin"][7, 11] == pytest.approx(1 - (ordered[-1] - ordered[-2]), rel=1e-5)
    mirrored = found.probabilities(image[:, ::-1].copy())[:, :, ::-1]
    expected = np.stack([probabilities, mirrored]).var(axis=0).sum(axis=0)
    np.testing.assert_allclose(maps["views"], expected, atol=1e-7)
    for values in maps.values():
        assert values.dtype == np.float32
        assert values.shape == (40, 56)
        assert 0 <= values.min() <= values.max() <= 1


def test_extremes(image: np.ndarray) -> None:
    found = predictor("unet", width=0.0625)
    sure = np.zeros((3, 40, 56), np.float32)
    sure[1] = 1
    maps = uncertainty_maps(found, image, sure)
    assert maps["entropy"].max() == maps["margin"].max() == 0
    maps = uncertainty_maps(found, image, np.full((3, 40, 56), 1 / 3, np.float32))
    assert maps["entropy"].min() == pytest.approx(1, abs=1e-5)
    assert maps["margin"].min() == pytest.approx(1, abs=1e-5)


def test_dropout_draws_networks_and_leaves_the_model_as_it_was(image: np.ndarray) -> None:
    found = predictor("fcn", backbone="test_resnet", dropout=0.5)
    assert has_dropout(found.tiled.model)
    probabilities = found.probabilities(image)
    first = uncertainty_maps(found, image, probabilities, dropout=4)["dropout"]
    again = uncertainty_maps(found, image, probabilities, dropout=4)["dropout"]
    assert np.array_equal(first, again)
    assert first.max() > 0
    assert not any(module.training for module in found.tiled.model.modules())
    assert np.array_equal(found.probabilities(image), probabilities)
    message = r"^this network has no dropout, so it is one network only; leave --mc-dropout out$"
    with pytest.raises(UsageError, match=message):
        uncertainty_maps(predictor("unet", width=0.0625), image, probabilities, dropout=3)
    with pytest.raises(UsageError, match=r"^a variance over networks needs at least 2 of them, got 1$"):
        uncertainty_maps(found, image, probabilities, dropout=1)


def test_the_file_holds_each_map_by_name(tmp_path: Path) -> None:
    maps = {name: np.random.default_rng(1).random((5, 7), np.float32) for name in ("entropy", "margin")}
    write_uncertainty(tmp_path / "new" / "a.tif", maps)
    with tifffile.TiffFile(tmp_path / "new" / "a.tif") as file:
        assert [page.description for page in file.pages] == ["entropy", "margin"]
        for page, values in zip(file.pages, maps.values(), strict=True):
            assert np.array_equal(page.asarray(), values)


def test_predict_writes_the_maps(run_command: Callable[..., Any], image: np.ndarray, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("fcn", num_classes=3, backbone="test_resnet", dropout=0.5)
    save_checkpoint(model, tmp_path / "model.safetensors")
    Image.fromarray(image).save(tmp_path / "a.png")
    command = ("predict", tmp_path / "model.safetensors", tmp_path / "a.png", "--device", "cpu")
    assert run_command(*command, "--out", tmp_path / "out", "--uncertainty", "--mc-dropout", 3).code == 0
    with tifffile.TiffFile(tmp_path / "out/uncertainty/a.tif") as file:
        assert [page.description for page in file.pages] == ["entropy", "margin", "views", "dropout"]
        assert file.pages[0].asarray().shape == image.shape[:2]
    assert not (tmp_path / "out/probabilities").exists()
    plain = create_model("unet", num_classes=3, width=0.0625)
    save_checkpoint(plain, tmp_path / "plain.safetensors")
    refused = run_command(
        "predict", tmp_path / "plain.safetensors", tmp_path / "a.png", "--out", tmp_path / "no", "--mc-dropout", 3
    )
    assert (refused.code, refused.stderr) == (
        2,
        "error: this network has no dropout, so it is one network only; leave --mc-dropout out\n",
    )
