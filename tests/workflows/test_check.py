# SPDX-License-Identifier: Apache-2.0
"""What ``denseg check`` says and writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from denseg.config import DataConfig
from denseg.data.encoding import MaskEncoding
from denseg.workflows.check import check, copy_json, copy_lines, examination_json, examination_lines, fix

MakePairs = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, make_pairs: MakePairs) -> Path:
    return make_pairs(tmp_path / "data", {"train": 4, "val": 2})


def test_lines(folder: Path) -> None:
    (folder / "images" / "val" / "val_000.png").write_bytes(b"broken")
    (folder / "masks" / "train" / "train_000.png").unlink()
    lines = examination_lines(check(folder), width=100)
    assert lines[0] == f"{folder}: 5 pairs (3 train, 2 val), read as folder"
    assert lines[1].startswith("error: 1 picture has no mask [image-without-mask]")
    assert lines[2] == f"    {folder}/images/train/train_000.png"
    assert lines[3] == "    -> add the masks, remove the pictures, or leave them out with --set data.unpaired=skip"
    assert "info: masks hold 0 to 2: read as 3 classes; stored numbers are class indices [mask-encoding]" in lines
    assert lines[-1] == "2 errors: training would not start"
    assert sum(float(line.split()[1]) for line in lines if line.endswith(" %")) == pytest.approx(100, abs=0.02)
    assert max(map(len, lines[4:])) <= 100 or any(str(folder) in line for line in lines)


def test_a_sound_folder_ends_with_ready(folder: Path) -> None:
    assert examination_lines(check(folder))[-1] == "ready to train"


def test_many_files_and_classes_are_cut_short(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    values = (np.arange(64 * 64).reshape(64, 64) // 64).astype(np.uint8)
    for number in range(6):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)).save(
            tmp_path / "images" / f"x{number}.png"
        )
        Image.fromarray(np.roll(values, number, 0)).save(tmp_path / "masks" / f"y{number}.png")
    lines = examination_lines(check(tmp_path))
    assert "    … and 9 more" in lines
    for path in (tmp_path / "masks").iterdir():
        path.rename(path.with_name(path.name.replace("y", "x")))
    assert "  … and 24 more classes" in examination_lines(check(tmp_path))


def test_json(folder: Path) -> None:
    examination = check(folder, config=DataConfig(val_share=0.5))
    result = json.loads(json.dumps(examination_json(examination), allow_nan=False))
    assert result["ok"] is True
    assert result["pairs"] == 6
    assert result["splits"] == {"train": 4, "val": 2}
    assert result["layout"] == "folder"
    assert (result["bands"], result["dtype"], result["ignore_index"]) == (3, "uint8", 255)
    assert sum(row["pixels"] for row in result["classes"]) == 6 * 48 * 64
    assert MaskEncoding.from_json(result["encoding"]) == examination.encoding
    assert {"code", "severity", "count", "files", "message", "action"} == set(result["findings"][0])
    assert result["fingerprint"]["images"]["count"] == 6


def test_json_of_a_folder_without_pairs(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "images" / "a.png")
    result = json.loads(json.dumps(examination_json(check(tmp_path)), allow_nan=False))
    assert result["ok"] is False
    assert result["findings"][0]["code"] == "no-pairs"
    assert result["pairs"] == 0


def test_fix(folder: Path, tmp_path: Path) -> None:
    (folder / "images" / "val" / "val_000.png").write_bytes(b"broken")
    copy = fix(check(folder), tmp_path / "clean")
    assert copy_lines(copy) == [
        f"{tmp_path}/clean: 5 pairs written, 0 pictures changed in form, 1 left out",
        f"    {folder}/images/val/val_000.png",
    ]
    assert copy_json(copy) == {
        "folder": f"{tmp_path}/clean",
        "written": 5,
        "rewritten": 0,
        "left_out": [f"{folder}/images/val/val_000.png"],
    }
    assert check(tmp_path / "clean").ok
