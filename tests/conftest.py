# SPDX-License-Identifier: Apache-2.0
"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

os.environ["DENSEG_CACHE"] = ""  # no test writes into the cache of the user who runs it

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets that stand beside the checkout."""
    folder = Path(os.environ.get("DENSEG_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the real data sets are not there: {folder}")
    return folder


def write_pairs(
    root: Path, counts: dict[str, int], *, size: tuple[int, int] = (48, 64), num_classes: int = 3, seed: int = 0
) -> Path:
    """Write an ordinary data folder: blocks of one colour per class with noise, index masks, equal stems.

    ``counts`` gives the images per split; the split "" stands for a flat folder.
    """
    rng = np.random.default_rng(seed)
    colors = rng.integers(40, 216, (num_classes, 3))
    for split, count in counts.items():
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            coarse = rng.integers(0, num_classes, (-(-size[0] // 16), -(-size[1] // 16)))
            coarse.flat[:num_classes] = range(num_classes)  # every class is in every image
            labels = np.kron(coarse, np.ones((16, 16), int))[: size[0], : size[1]]
            pixels = colors[labels] + rng.integers(-20, 21, (*size, 3))
            name = f"{split or 'image'}_{index:03d}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / split / name)
            Image.fromarray(labels.astype(np.uint8)).save(root / "masks" / split / name)
    return root


@pytest.fixture(scope="session")
def make_pairs() -> Callable[..., Path]:
    """``make_pairs(root, {"train": 4, "val": 2})`` writes a small data folder of 48x64 images and 3 classes."""
    return write_pairs


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of six 48x64 images, 3 classes, split into train and val. Read it only."""
    return write_pairs(tmp_path_factory.mktemp("tiny") / "data", {"train": 4, "val": 2})


TINY = (
    "train.epochs=2",
    "train.batch_size=2",
    "train.crop=32",
    "train.workers=0",
    "train.optimizer=adamw",
    "train.learning_rate=0.01",
    "model.width=0.0625",
)
"""Settings that train a U-Net in a second or two."""


@pytest.fixture(scope="session")
def tiny_settings() -> tuple[str, ...]:
    """``key=value`` settings that train a U-Net in a second or two."""
    return TINY


@pytest.fixture(scope="session")
def tiny_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on ``tiny_data``. Read it only."""
    from denseg.workflows.train import train

    out = tmp_path_factory.mktemp("run") / "tiny"
    train(tiny_data, settings=TINY, out=out, device="cpu", progress=False)
    return out


class CommandResult(NamedTuple):
    """What a command left."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def run_command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., CommandResult]:
    """``run_command("check", path)`` runs ``denseg check path`` in this process."""
    from denseg.cli import main

    monkeypatch.delenv("DENSEG_DEBUG", raising=False)

    def run(*arguments: object) -> CommandResult:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return CommandResult(code, captured.out, captured.err)

    return run
