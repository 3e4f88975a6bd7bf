# SPDX-License-Identifier: Apache-2.0
"""The demo: small and quick here; as users run it in end_to_end/test_demo.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from denseg.errors import OutputError
from denseg.workflows.demo import run_demo

QUICK = ("train.epochs=1", "train.crop=32", "model.width=0.0625")


def test_demo_goes_the_whole_way_and_shows_itself_again(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    result = run_demo(out, settings=QUICK, progress=False, size=64)
    assert result.report == out / "run" / "report.html"
    assert result.report.is_file()
    assert (out / "data" / "dataset.yaml").is_file()
    images = sorted(path.name for path in (out / "data" / "images" / "test").iterdir())
    assert sorted(path.name for path in (out / "predictions").glob("*.png")) == images
    assert sorted(path.name for path in (out / "predictions" / "overlay").iterdir()) == images
    document = result.to_json()
    assert document["test"]["split"] == "test"
    assert document["test"]["images"] == len(images)
    lines = result.lines()
    assert lines[0].startswith(f"{len(images)} unseen pictures: mIoU {document['test']['miou']:.3f}, 95 % interval ")
    assert lines[0].endswith(f"; majority baseline {document['test']['baseline_miou']:.3f}")
    assert lines[-1] == f"open this in a browser: {result.report.resolve()}"

    weights = (out / "run" / "checkpoints" / "best.safetensors").read_bytes()
    again = run_demo(out, settings=QUICK, progress=False, size=64)
    assert again.to_json()["test"]["miou"] == document["test"]["miou"]
    assert (out / "run" / "checkpoints" / "best.safetensors").read_bytes() == weights
    assert len(again.predictions.skipped) == len(images)


def test_demo_leaves_other_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(OutputError) as caught:
        run_demo(tmp_path, progress=False)
    assert str(caught.value) == f"{tmp_path} is not empty and holds no demo; choose another --out"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
