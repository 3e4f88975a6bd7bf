# SPDX-License-Identifier: Apache-2.0
"""What happens to a training when the disk, a worker, a file or a number fails."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.data

from denseg.data.samples.dataset import SegmentationDataset
from denseg.errors import ImageError, OutputError, TrainingError
from denseg.losses import CompositeLoss
from denseg.models.tensor_file import read_tensors
from denseg.runs import RunFolder
from denseg.training import guards
from denseg.training.state import load_state

Fit = Callable[..., Any]


def same(one: RunFolder, two: RunFolder) -> bool:
    for path in ("state", "last", "best"):
        a, b = (read_tensors(run.path / "checkpoints" / f"{path}.safetensors")[0] for run in (one, two))
        if a.keys() != b.keys() or not all(torch.equal(a[name], b[name]) for name in a):
            return False
    return True


@pytest.mark.parametrize("writes", range(0, 16, 2))
def test_a_disk_that_fills_up_loses_nothing(
    fit_run: Fit, new_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    whole = fit_run(name="whole").run
    run, _ = new_run(name="full")
    real, left = os.fsync, writes

    def fsync(descriptor: int) -> None:
        nonlocal left
        name = Path(f"/proc/self/fd/{descriptor}").readlink()
        if not name.is_relative_to(run.path) or name.is_dir():
            return real(descriptor)
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        return real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OutputError) as caught:
        fit_run(run=run)
    monkeypatch.undo()
    assert ": no space left on the disk; free some or choose another folder with --out" in str(caught.value)
    assert caught.value.exit_code == 1
    assert not list(run.path.rglob("*.tmp"))
    assert fit_run(run=run, loaded=load_state(run)).position.finished
    assert same(run, whole)


def test_too_little_space_is_told_before_the_first_step(fit_run: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1_000_000

    monkeypatch.setattr(guards.shutil, "disk_usage", lambda folder: Usage)
    with pytest.raises(OutputError) as caught:
        fit_run()
    assert str(caught.value).startswith("no space for checkpoints in ")


def in_worker() -> bool:
    return torch.utils.data.get_worker_info() is not None


def test_a_worker_that_dies_is_told(fit_run: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    read = SegmentationDataset.__getitem__

    def die(self: SegmentationDataset, key: Any) -> Any:
        if in_worker() and key[0] == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, key)

    monkeypatch.setattr(SegmentationDataset, "__getitem__", die)
    began = time.monotonic()
    with pytest.raises(TrainingError) as caught:
        fit_run("train.workers=1", "train.epochs=3")
    assert time.monotonic() - began < 30
    assert "a worker process of the data loader died" in str(caught.value)


def test_a_file_that_breaks_while_training_names_itself(
    fit_run: Fit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read = SegmentationDataset.read

    def broken(self: SegmentationDataset, index: int) -> Any:
        if self.augmentation is not None and len(list((tmp_path / "run/checkpoints").glob("last*"))) > 0:
            raise ImageError(f"cannot read {self.pairs[index].image}: it is cut short", path=self.pairs[index].image)
        return read(self, index)

    monkeypatch.setattr(SegmentationDataset, "read", broken)
    with pytest.raises(ImageError) as caught:
        fit_run("train.epochs=3")
    assert str(caught.value).endswith(".png: it is cut short")
    monkeypatch.undo()
    run = RunFolder(tmp_path / "run")
    fit_run("train.epochs=3", run=run, loaded=load_state(run))
    assert same(run, fit_run("train.epochs=3", name="whole").run)


def test_a_loss_that_is_not_finite_tells_step_pictures_and_rate(
    fit_run: Fit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Any
) -> None:
    forward, calls = CompositeLoss.forward, 0

    def nan_at_third(self: CompositeLoss, *arguments: Any, **maps: Any) -> Any:
        nonlocal calls
        loss = forward(self, *arguments, **maps)
        calls += loss.total.requires_grad  # validation takes no gradient
        return loss._replace(total=loss.total * float("nan")) if calls == 3 else loss

    monkeypatch.setattr(CompositeLoss, "forward", nan_at_third)
    with pytest.raises(TrainingError) as caught:
        fit_run("train.checkpoint_every=1")
    run = RunFolder(tmp_path / "run")
    kept, metadata = read_tensors(run.failed_batch_path)
    stems = ", ".join(data.train[int(index)].stem for index in kept["0/index"])
    assert str(caught.value) == (
        f"the loss became nan at step 3 (epoch 2, learning rate 0.00536) on {stems} (kept in {run.failed_batch_path}); "
        "the last good checkpoint is kept: lower train.learning_rate, add train.warmup, or set train.clip_norm, and "
        "start again from another --out"
    )
    assert metadata == {"step": 3, "epoch": 2, "what": "loss", "stage": "train"}
    loaded = load_state(run)
    assert loaded is not None
    assert loaded.position.step == 2


def test_a_picture_with_broken_numbers_is_named(
    fit_run: Fit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Any
) -> None:
    sample = SegmentationDataset.__getitem__

    def broken(self: SegmentationDataset, key: Any) -> Any:
        values = sample(self, key)
        if self.augmentation is not None and key[1] == 2:
            values["images"][0, 0, 0] = float("nan")
        return values

    monkeypatch.setattr(SegmentationDataset, "__getitem__", broken)
    with pytest.raises(TrainingError) as caught:
        fit_run()
    assert f"{data.train[2].image} holds values that are not finite: replace it" in str(caught.value)


def test_a_gradient_that_is_not_finite_is_told_where_it_is_measured(
    fit_run: Fit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forward = CompositeLoss.forward

    def infinite_gradient(self: CompositeLoss, *arguments: Any, **maps: Any) -> Any:
        loss = forward(self, *arguments, **maps)
        if loss.total.requires_grad:
            loss.total.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    monkeypatch.setattr(CompositeLoss, "forward", infinite_gradient)
    with pytest.raises(TrainingError) as caught:
        fit_run("train.clip_norm=1.0")
    assert str(caught.value).startswith("the gradient became ")
    with pytest.raises(TrainingError) as caught:
        fit_run("train.checkpoint_every=1", name="unclipped")
    assert "not finite after step 1" in str(caught.value)
    assert not RunFolder(tmp_path / "unclipped").has_checkpoint


def test_out_of_memory_says_what_fits(fit_run: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: CompositeLoss, *arguments: Any, **maps: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(CompositeLoss, "forward", refuse)
    with pytest.raises(TrainingError) as caught:
        fit_run()
    assert str(caught.value) == (
        "the GPU has too little memory for batches of 2 samples of 32x32; --set train.batch_size=1 --set "
        "train.accumulate=2 takes about half and steps alike"
    )


def test_an_epoch_without_labels_is_told(fit_run: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = SegmentationDataset.__getitem__

    def unlabelled(self: SegmentationDataset, key: Any) -> Any:
        values = sample(self, key)
        values["target"].fill_(255)
        return values

    monkeypatch.setattr(SegmentationDataset, "__getitem__", unlabelled)
    with pytest.raises(TrainingError) as caught:
        fit_run()
    assert str(caught.value) == (
        "not one labelled pixel came in the first epoch (4 samples of 32x32): look at the masks with `denseg check`, "
        "and at train.crop"
    )
