# SPDX-License-Identifier: Apache-2.0
"""Every command, on a tiny data set, as a user types it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., Any]


def settings_of(settings: tuple[str, ...]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def test_check_says_what_it_sees(run_command: Run, tiny_data: Path, tmp_path: Path) -> None:
    result = run_command("check", tiny_data, "--json", tmp_path / "new" / "check.json")
    assert result.code == 0
    assert "6 pairs (4 train, 2 val)" in result.stdout
    assert "ready to train" in result.stdout
    written = json.loads((tmp_path / "new" / "check.json").read_text(encoding="utf-8"))
    assert written["ok"] is True
    assert all(
        finding.keys() == {"code", "severity", "count", "files", "message", "action"} for finding in written["findings"]
    )


def test_check_fails_on_what_spoils_training(run_command: Run, tiny_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    (data / "masks" / "train" / "train_000.png").unlink()
    result = run_command("check", data, "--json", "-")
    assert result.code == 1
    written = json.loads(result.stdout)
    assert written["ok"] is False
    assert [finding["code"] for finding in written["findings"] if finding["severity"] == "error"] == [
        "image-without-mask"
    ]
    assert run_command("train", data, "--out", tmp_path / "run").code == 1
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert run_command("check", data, "--unpaired", "skip").code == 0
    wrong = run_command("check", data, "--unpaired", "drop")
    assert wrong.code == 2
    assert "data.unpaired: input should be 'refuse' or 'skip', got 'drop'" in wrong.stderr


def test_no_such_folder_is_one_line(run_command: Run, tmp_path: Path) -> None:
    for command in (["check"], ["train", "--out", tmp_path / "run"]):
        result = run_command(command[0], tmp_path / "nothing", *command[1:])
        assert result.code == 1
        assert result.stderr.count("\n") == 1
        assert str(tmp_path / "nothing") in result.stderr


def test_train_eval_predict(run_command: Run, tiny_data: Path, tiny_settings: tuple[str, ...], tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained = run_command(
        "train", tiny_data, *settings_of(tiny_settings), "--out", run, "--device", "cpu", "--json", "-"
    )
    assert trained.code == 0, trained.stderr
    assert json.loads(trained.stdout)["status"] == "finished"
    assert (run / "report.html").is_file()

    scored = run_command("eval", run, tiny_data, "--split", "val", "--json", tmp_path / "scores.json")
    assert scored.code == 0, scored.stderr
    assert "mIoU" in scored.stdout
    scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    wanted = {"miou", "baseline_miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "classes", "images"}
    assert wanted | {"interval"} <= scores.keys()
    assert scores["images"] == 2
    assert {"name", "iou", "accuracy", "pixels"} <= scores["classes"][0].keys()

    out = tmp_path / "out"
    labelled = run_command("predict", run, tiny_data / "images" / "val", "--out", out)
    assert labelled.code == 0, labelled.stderr
    for name in ("val_000.png", "val_001.png"):
        with Image.open(out / name) as labels, Image.open(out / "overlay" / name) as overlay:
            assert labels.size == overlay.size == (64, 48)
            assert set(np.unique(np.asarray(labels))) <= {0, 1, 2}


def test_predict_reports_and_skips_what_it_cannot_read(
    run_command: Run, tiny_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_data / "images" / "val", tmp_path / "in")
    good = (tmp_path / "in" / "val_000.png").read_bytes()
    (tmp_path / "in" / "broken.png").write_bytes(good[: len(good) // 2])
    result = run_command("predict", tiny_run, tmp_path / "in", "--out", tmp_path / "out", "--json", "-")
    assert result.code == 1
    assert "broken.png" in result.stderr
    assert "Traceback" not in result.stderr
    written = json.loads(result.stdout)
    assert [Path(row["image"]).name for row in written["failed"]] == ["broken.png"]
    assert len(written["predictions"]) == 2


def test_inspect(run_command: Run, tmp_path: Path) -> None:
    result = run_command("inspect", "unet", "--backbone", "resnet18", "--size", "64x96", "--layers")
    assert result.code == 0
    assert "parameters" in result.stdout
    assert "for one image of 64x96" in result.stdout
    written = json.loads(run_command("inspect", "unet", "--backbone", "resnet18", "--json", "-").stdout)
    assert {"parameters", "macs", "output_stride", "paper"} <= written.keys()
    assert sum(row["parameters"] for row in written["layers"]) == written["parameters"]


def test_inspect_of_a_run(run_command: Run, tiny_run: Path) -> None:
    written = json.loads(run_command("inspect", "--checkpoint", tiny_run, "--json", "-").stdout)
    assert written["model"] == "unet"
    assert written["arguments"]["num_classes"] == 3


def test_models(run_command: Run) -> None:
    text = run_command("models").stdout
    assert "unet" in text
    assert "U-Net: Convolutional Networks for Biomedical Image Segmentation" in text
    written = json.loads(run_command("models", "--json", "-").stdout)
    assert written.keys() == {"models", "layers", "losses", "backbones"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the name of a model, or --checkpoint"),
        (["unet", "--image", "x.png"], "pictures of an image need trained weights; give --checkpoint, a run or a file"),
        (["unett"], "no model named 'unett'. Did you mean 'unet'? Known: "),
        (
            ["unet", "--set", "train.epochs=3"],
            "inspect takes settings of the model, for example model.output_stride=8; got train.epochs=3",
        ),
    ],
)
def test_inspect_errors(run_command: Run, arguments: list[str], message: str) -> None:
    result = run_command("inspect", *arguments)
    assert result[:2] == (2, "")
    assert result.stderr.startswith(f"error: {message}")
