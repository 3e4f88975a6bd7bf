# SPDX-License-Identifier: Apache-2.0
"""Scores of a network with frequency bands removed from the images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from denseg.data.samples.normalization import Normalization
from denseg.errors import UsageError
from denseg.inference import Predictor
from denseg.metrics import boundary_iou
from denseg.models import create_model, save_checkpoint
from denseg.types import ClassTable
from denseg.workflows import inspect_frequency as module
from denseg.workflows.evaluate import evaluate
from denseg.workflows.inspect import inspect_model
from denseg.workflows.inspect_frequency import inspect_frequency


def test_the_command_scores_each_band(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, run_command: Callable[..., Any]
) -> None:
    out, json_path = tmp_path / "bands", tmp_path / "bands.json"
    command = ("inspect", "--checkpoint", tiny_run, "--data", tiny_data, "--frequency", "--device", "cpu")
    result = run_command(*command, "--out", out, "--json", json_path)
    assert result.code == 0, result.stderr
    told = json.loads(json_path.read_text(encoding="utf-8"))["frequency"]
    assert (told["split"], told["images"], told["images_there"], told["notes"]) == ("val", 2, 2, [])
    assert [row["band"] for row in told["removed"]] == ["low", "middle", "high"]
    assert [row["cycles_per_pixel"] for row in told["removed"]] == [
        [0, 1 / 32], [1 / 32, 1 / 8], [1 / 8, pytest.approx(math.sqrt(0.5))],
    ]  # fmt: skip
    for row in told["removed"]:
        for score in ("miou", "boundary_iou"):
            difference, (low, high) = row[f"{score}_difference"], row[f"{score}_difference_interval"]
            assert difference == pytest.approx(row[score] - told["whole"][score])
            assert low - 1e-9 <= difference <= high + 1e-9  # of two images the extremes are the images themselves
        assert 0 < row["contrast"] < 1
    assert told["whole"]["miou"] == pytest.approx(evaluate(tiny_run, tiny_data, device="cpu").document["miou"])
    predictor = Predictor.load(tiny_run, device="cpu")
    images = sorted((tiny_data / "images" / "val").iterdir())
    masks = np.stack([np.asarray(Image.open(tiny_data / "masks" / "val" / image.name)) for image in images])
    labels = np.stack([predictor.predict(image) for image in images])
    assert told["whole"]["boundary_iou"] == pytest.approx(boundary_iou(labels, masks, 3).mean)
    assert "frequency bands: val, 2 images; differences with 95 % intervals over images" in result.stdout
    for line in ("nothing ", "low, below 1/32 ", "middle, 1/32 to 1/8 ", "high, above 1/8 "):
        assert f"\n{line}" in result.stdout
    with Image.open(told["picture"]) as shown:
        assert Path(told["picture"]) == out / "val_000-bands.png"
        assert shown.width > 900
        assert np.asarray(shown.convert("L")).std() > 5


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen-bit pictures whose left half has stripes of 4 pixels, the right half none; both are equally bright."""
    root = tmp_path_factory.mktemp("stripes")
    for kind in ("images", "masks"):
        (root / "data" / kind).mkdir(parents=True)
    for index in range(5):
        rng = np.random.default_rng(index)
        row = np.where(np.arange(64) < 32, np.where(np.arange(64) % 4 < 2, 12000, -12000), 0)
        pixels = 30000 + rng.integers(-2000, 2000) + np.broadcast_to(row, (64, 64))
        labels = np.broadcast_to(np.arange(64) < 32, (64, 64))
        Image.fromarray(pixels.astype(np.uint16)).save(root / "data" / "images" / f"{index}.png")
        Image.fromarray(labels.astype(np.uint8)).save(root / "data" / "masks" / f"{index}.png")
    torch.manual_seed(0)
    model = create_model("unet", num_classes=2, in_channels=1, width=0.0625)
    normalization = Normalization((0.5,), (0.25,), 65535.0)
    classes = ClassTable.numbered(2)
    save_checkpoint(model, root / "m.safetensors", classes=classes, normalization=normalization.to_json())
    return root


class Spread:
    """Labels a pixel as striped where its row varies within 9 pixels, and remembers what it saw."""

    def __init__(self, predictor: Predictor) -> None:
        self.seen: list[tuple[np.dtype, float]] = []
        self.normalization, self.classes, self.max_pixels = predictor.normalization, predictor.classes, 10**8
        self.metadata, self.postprocessing = predictor.metadata, predictor.postprocessing

    def predict(self, image: np.ndarray, *, name: Path) -> np.ndarray:
        self.seen.append((image.dtype, float(image.mean()) / self.normalization.scale))
        values = image[:, :, 0].astype(float) / self.normalization.scale
        around = np.lib.stride_tricks.sliding_window_view(np.pad(values, ((0, 0), (4, 4)), mode="edge"), 9, axis=1)
        return (around.std(axis=-1) > 0.09).astype(np.uint8)


def test_a_reader_of_texture_is_found(stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Spread(Predictor.load(stripes / "m.safetensors", device="cpu"))
    monkeypatch.setattr(module.Predictor, "load", lambda *_, **__: reader)
    calls: list[tuple[int, int]] = []
    report = inspect_frequency(
        stripes / "m.safetensors", stripes / "data", tmp_path, limit=4, progress=lambda *done: calls.append(done)
    )
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (report.split, report.images, report.there) == ("all", 4, 5)
    assert report.notes[-1] == "the folder has no split val: all 5 images are scored"
    assert report.miou > 0.9
    low, middle, high = report.rows
    assert high.miou_test.high < -0.4, "without the stripes nothing is left to see"
    assert high.boundary_test.high < 0
    assert low.miou_test.difference == pytest.approx(0, abs=0.02) == middle.miou_test.difference
    assert high.contrast > 0.9 > 0.5 > max(low.contrast, middle.contrast)
    assert "mIoU needs, most first: high (-" in "\n".join(report.lines())
    assert "of 5; differences" in report.lines()[1]
    # the images are seen whole as stored, and without a band as floats of the same mean
    for first in range(0, len(reader.seen), 4):
        assert [kind for kind, _ in reader.seen[first : first + 4]] == [np.uint16, *[np.float32] * 3]
        means = [mean for _, mean in reader.seen[first : first + 4]]
        np.testing.assert_allclose(means, means[0], rtol=1e-5)


def test_large_images_are_left_out(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 48 * 64 - 1)
    with pytest.raises(UsageError, match=r"have more than 3,071 pixels, too many to take them apart; cut them$"):
        inspect_frequency(tiny_run, tiny_data, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_said_in_a_line(tiny_run: Path, tiny_data: Path, run_command: Callable[..., Any]) -> None:
    for words, message in (
        (("unet", "--frequency"), "--frequency scores trained weights; give --checkpoint, a run or a file"),
        (
            ("--frequency", "--data", tiny_data),
            "--frequency scores trained weights; give --checkpoint, a run or a file",
        ),
        (
            ("--checkpoint", tiny_run, "--frequency"),
            "--frequency scores labelled images; give their folder with --data",
        ),
    ):
        result = run_command("inspect", *words)
        assert (result.code, result.stderr) == (2, f"error: {message}\n")
    with pytest.raises(UsageError, match=r"^at least 1 image must be scored, got a limit of 0$"):
        inspect_model(checkpoint=tiny_run, data=tiny_data, frequency=True, limit=0)
