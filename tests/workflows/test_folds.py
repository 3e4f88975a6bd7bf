# SPDX-License-Identifier: Apache-2.0
"""K-fold training: each picture is judged by a network that never saw it, and all networks predict as one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from denseg.errors import RunError, UsageError
from denseg.inference import Predictor
from denseg.metrics import ConfusionMatrix
from denseg.models import load_checkpoint
from denseg.runs import RunFolder
from denseg.workflows.train import train

SMALL = ["model.width=0.0625", "train.crop=32", "train.batch_size=2", "train.workers=0", "train.epochs=1"]


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """The tiny data set without a split: six pictures."""
    root = tmp_path_factory.mktemp("flat")
    for folder in ("images", "masks"):
        (root / folder).mkdir()
        for split in ("train", "val"):
            for file in sorted((tiny_data / folder / split).iterdir()):
                (root / folder / f"{split}_{file.name}").write_bytes(file.read_bytes())
    return root


@pytest.fixture(scope="module")
def run(flat: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("runs") / "folds"
    return train(flat, settings=SMALL, device="cpu", out=out, folds=3, progress=False).run


def test_every_picture_is_held_out_once(run: RunFolder) -> None:
    splits = [row.split for row in run.split()]
    assert sorted(splits) == ["fold-1"] * 2 + ["fold-2"] * 2 + ["fold-3"] * 2
    for number in (1, 2, 3):
        fold = RunFolder.open(run.path / f"fold-{number}")
        assert fold.status == "finished"
        held = {row.stem for row in run.split(f"fold-{number}")}
        assert {row.stem for row in fold.split("val")} == held
        assert len(fold.split("train")) == 4


def test_the_score_is_that_of_the_held_out_pictures(run: RunFolder, flat: Path) -> None:
    matrix = ConfusionMatrix(3)
    for number in (1, 2, 3):
        fold = RunFolder.open(run.path / f"fold-{number}")
        predictor = Predictor.load(fold.path)
        for row in fold.split("val"):
            labels = predictor.predict(flat / row.image)
            with Image.open(flat / row.mask) as mask:
                target = np.asarray(mask).astype(np.int64)
            matrix.update(torch.from_numpy(np.asarray(labels).astype(np.int64)), torch.from_numpy(target))
    document = run.evaluation("val")
    assert document["images"] == 6
    assert document["miou"] == pytest.approx(matrix.compute().miou)
    assert [entry["run"] for entry in document["folds"]] == ["fold-1", "fold-2", "fold-3"]


def test_the_run_predicts_with_the_mean_of_all(run: RunFolder, flat: Path) -> None:
    image = flat / run.split()[0].image
    model = load_checkpoint(run.path).model
    assert len(model.members) == 3
    for number, member in enumerate(model.members, start=1):
        own = load_checkpoint(run.path / f"fold-{number}").model.state_dict()
        assert all(torch.equal(tensor, own[name]) for name, tensor in member.state_dict().items())
    assert Predictor.load(run.path).predict(image).shape == (48, 64)
    assert run.report_path.is_file()
    assert run.status == "finished"


def test_again_is_nothing_and_more_than_asked_is_told(
    run: RunFolder, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = train(flat, settings=SMALL, device="cpu", out=run.path, folds=3, resume=True, progress=False)
    assert again.note == f"{run.path} is finished; nothing was done"
    assert any(line.startswith("3 folds   mIoU ") for line in again.lines())
    with pytest.raises(UsageError) as caught:
        train(flat, settings=[*SMALL, "data.fold=[1,3]"], out=tmp_path / "x", folds=3, progress=False)
    assert str(caught.value) == "data.fold is one fold and --folds are all of them; give one of the two"
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError) as caught:
        train(flat, settings=SMALL, out=tmp_path / "x", folds=3, progress=False)
    assert str(caught.value) == "--folds takes one process; train fold k on its own with --set data.fold=[k,3]"


def test_stopped_between_folds_it_goes_on(flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from denseg.workflows import train as module

    inner: Callable[..., Any] = module.begin_run

    def until_second(path: Path, config: Any, out: Path, *rest: Any) -> Any:
        if out.name == "fold-2":
            raise KeyboardInterrupt
        return inner(path, config, out, *rest)

    out = tmp_path / "run"
    monkeypatch.setattr(module, "begin_run", until_second)
    with pytest.raises(BaseException, match="resume"):
        train(flat, settings=SMALL, device="cpu", out=out, folds=2, progress=False)
    monkeypatch.setattr(module, "begin_run", inner)
    with pytest.raises(RunError) as caught:
        train(flat, settings=SMALL, device="cpu", out=out, folds=2, progress=False)
    assert str(caught.value) == f"{out} holds folds of another start; go on with --resume, or choose another --out"
    with pytest.raises(UsageError) as wrong:
        train(flat, settings=SMALL, device="cpu", out=out, folds=3, resume=True, progress=False)
    assert str(wrong.value) == f"{out} was started with 2 folds; got 3"
    with pytest.raises(UsageError) as plain:
        train(flat, settings=SMALL, device="cpu", out=out, resume=True, progress=False)
    assert str(plain.value) == f"{out} was started with --folds 2; say so again"
    done = (out / "fold-1" / "run.json").read_bytes()
    result = train(flat, settings=SMALL, device="cpu", out=out, folds=2, resume=True, progress=False)
    assert result.evaluation["images"] == 6
    assert (out / "fold-1" / "run.json").read_bytes() == done, "a finished fold is left as it is"
