# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from denseg.errors import CheckpointError, OutputError, RunError
from denseg.models.tensor_file import write_tensors
from denseg.runs import RunFolder
from denseg.training.state import Position, load_model_tensors, load_state, save_state, take

NewRun = Callable[..., tuple[RunFolder, Any]]


def tensors(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"model": {"a.weight": torch.full((2, 3), value)}, "optimizer": {"a.weight/step": torch.tensor(value)}}


def test_a_state_comes_back_whole(new_run: NewRun) -> None:
    run, _ = new_run()
    assert load_state(run) is None
    position = Position(step=3, epoch_loss=0.1 + 0.2, history=[{"stage": "train", "epoch": 1, "loss": 1 / 3}], best=0.5)
    save_state(run, tensors(1.5), position, {"classes": ["ä"]})
    loaded = load_state(run)
    assert loaded is not None
    assert loaded.position == position
    assert loaded.extras == {"classes": ["ä"]}
    assert loaded.path == run.state_path
    assert loaded.warning == ""
    assert torch.equal(take(loaded.tensors, "model")["a.weight"], torch.full((2, 3), 1.5))
    assert list(take(loaded.tensors, "optimizer")) == ["a.weight/step"]
    assert take(loaded.tensors, "loss") == {}


def test_the_state_before_stays_and_is_used_when_the_new_one_is_damaged(new_run: NewRun) -> None:
    run, _ = new_run()
    for step in (1, 2, 3):
        save_state(run, tensors(step), Position(step=step), {})
    content = bytearray(run.state_path.read_bytes())
    content[-5] ^= 16
    run.state_path.write_bytes(content)
    loaded = load_state(run)
    assert loaded is not None
    assert loaded.position.step == 2
    assert loaded.path == run.previous_state_path
    assert str(run.state_path) in loaded.warning
    assert "damaged" in loaded.warning


def test_every_state_damaged_says_so(new_run: NewRun) -> None:
    run, _ = new_run()
    save_state(run, tensors(1), Position(), {})
    run.state_path.write_bytes(run.state_path.read_bytes()[:-3])
    with pytest.raises(CheckpointError) as caught:
        load_state(run)
    assert str(caught.value).endswith("; there is no earlier state to resume from. Start a new run from another --out")
    save_state(run, tensors(1), Position(), {})
    for path in (run.state_path, run.previous_state_path):
        path.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError) as caught:
        load_state(run)
    assert str(run.state_path) in str(caught.value)
    assert str(run.previous_state_path) in str(caught.value)


def test_only_the_previous_state_is_left(new_run: NewRun) -> None:
    run, _ = new_run()
    for step in (1, 2):
        save_state(run, tensors(step), Position(step=step), {})
    run.state_path.unlink()
    loaded = load_state(run)
    assert loaded is not None
    assert loaded.position.step == 1


def test_a_file_system_without_links_copies(new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    run, _ = new_run()
    for step in (1, 2):
        save_state(run, tensors(step), Position(step=step), {})
    run.state_path.unlink()
    loaded = load_state(run)
    assert loaded is not None
    assert loaded.position.step == 1
    assert [path.name for path in run.state_path.parent.iterdir()] == ["state.previous.safetensors"]


def test_a_folder_that_takes_nothing_says_so(new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = new_run()
    save_state(run, tensors(1), Position(), {})

    def refuse(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OutputError) as caught:
        save_state(run, tensors(2), Position(), {})
    assert str(caught.value) == (
        f"cannot write {run.previous_state_path}: no space left on the disk; "
        "free some or choose another folder with --out"
    )
    assert load_state(run) is not None


def test_a_newer_state_is_refused(new_run: NewRun) -> None:
    run, _ = new_run()
    write_tensors(run.state_path, {}, {"state_format": 2, "position": {}, "extras": {}})
    with pytest.raises(RunError) as caught:
        load_state(run)
    assert str(caught.value) == f"{run.state_path} was written by a newer denseg; update denseg to resume this run"


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_model_tensors(nn.Conv2d(1, 1, 1), {"other": torch.zeros(1)}, tmp_path / "state")
    assert str(caught.value).startswith(
        f"{tmp_path / 'state'} does not fit the network that its config.yaml builds here (Error(s) in loading"
    )
    assert str(caught.value).endswith("; resume with the versions in the run's environment.json")


def test_positions_are_json_and_tolerate_keys_of_later_versions() -> None:
    position = Position(step=4, best=0.25, facts={"threads": 2})
    value = json.loads(json.dumps(position.to_json()))
    assert Position.from_json(value | {"unknown": 1}) == position


def test_counting_epochs_and_stages() -> None:
    position = Position(step=4, epoch_step=4, epoch_images=8, epoch_loss=1.0, epoch_seconds=2.0, stale=3)
    position.begin_epoch()
    assert (position.epoch, position.stage_epoch, position.epoch_step, position.epoch_loss) == (1, 1, 0, 0.0)
    position.begin_stage()
    assert (position.stage, position.step, position.stage_epoch, position.stale, position.epoch) == (1, 0, 0, 0, 1)
