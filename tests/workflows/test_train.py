# SPDX-License-Identifier: Apache-2.0
"""How a training ends that was broken off in the middle of a library's code."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from denseg.errors import CheckpointError, DensegError, InterruptedRunError, OutputError
from denseg.runs import RunFolder
from denseg.workflows import train as workflow

STOPPED = "stopped; what was saved is whole: the same command with --resume goes on from there"
SETTINGS = ["model.width=0.0625", "train.crop=16", "train.epochs=1", "train.workers=0"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    generator = np.random.default_rng(0)
    for index in range(3):
        mask = np.zeros((20, 24), np.uint8)
        mask[4:12, 4 + index : 14] = 1
        picture = (mask[..., None] * 90 + generator.integers(0, 60, (20, 24, 3))).astype(np.uint8)
        Image.fromarray(picture).save(root / "images" / f"{index}.png")
        Image.fromarray(mask).save(root / "masks" / f"{index}.png")
    return root


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (CheckpointError("best.safetensors is damaged"), "interrupted", STOPPED),
        (OutputError("no space"), "failed", "no space; what was saved before is whole: go on with --resume"),
    ],
)
def test_what_a_library_makes_of_a_signal_is_no_damage(  # the disk may still be full
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, error: DensegError, status: str, said: str
) -> None:
    def load(*_: object) -> None:
        with contextlib.suppress(KeyboardInterrupt):  # as safetensors does: its reader reports another error
            os.kill(os.getpid(), signal.SIGINT)
        raise error

    monkeypatch.setattr(workflow, "_conclude", load)
    with pytest.raises(DensegError) as caught:
        workflow.train(folder, model="unet", settings=SETTINGS, out=tmp_path / "run", device="cpu", progress=False)
    assert str(caught.value) == said
    assert isinstance(caught.value, InterruptedRunError) == (status == "interrupted")
    assert RunFolder.open(tmp_path / "run").status == status
