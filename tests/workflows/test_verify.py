# SPDX-License-Identifier: Apache-2.0
"""The proof that resuming is exact: it proves it where it is so, and says so where it is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from denseg.errors import TrainingError, UsageError
from denseg.workflows.verify import verify_resume

SMALL = ("model.width=0.0625", "train.crop=32", "train.batch_size=1", "train.workers=0", "train.epochs=9")


@pytest.mark.parametrize(
    "more",
    [
        ("train.ema=0.9", "train.validate_every=3"),
        ("stages=[{name: a, train: {epochs: 2}}, {name: b, train: {iterations: 3, accumulate: 2}}]",),
    ],
)
def test_it_proves_it_and_leaves_nothing(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    proof = verify_resume(tiny_data, settings=[*SMALL, *more], device="cpu", progress=False)
    assert proof.tensors > 20
    assert proof.lines() == [
        "resume is exact on this cpu: stopped after step 1 and 3 of 6 and gone on, all "
        f"{proof.tensors} tensors ({proof.numbers:,} numbers) and the table are the same, bit for bit"
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_state_that_forgets_something_is_found(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from denseg.training import stage

    monkeypatch.setattr(stage, "load_optimizer_tensors", lambda optimizer, tensors: None)
    with pytest.raises(TrainingError) as caught:
        verify_resume(tiny_data, settings=SMALL, device="cpu", progress=False)
    assert str(caught.value).startswith("resume is not exact here: stopped after step 1 of 6 and gone on, ")
    assert "tensors differ (first model/" in str(caught.value)


def test_it_takes_one_process(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError) as caught:
        verify_resume(tiny_data)
    assert str(caught.value) == "--verify-resume takes one process; start it without torchrun"


def test_the_command(run_command: Callable[..., Any], tiny_data: Path, tmp_path: Path) -> None:
    words = [word for setting in SMALL for word in ("--set", setting)]
    result = run_command("train", tiny_data, "--verify-resume", "--device", "cpu", *words, "--json", "-")
    assert result.code == 0, result.stderr
    assert json.loads(result.stdout)["ok"] is True
    assert torch.is_grad_enabled()
