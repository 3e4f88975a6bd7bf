# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the training tests: a tiny data set and runs on it, without the mask doctor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from denseg.config import RunConfig, load_config
from denseg.data.encoding import MaskEncoding
from denseg.data.folders.folder import discover
from denseg.data.samples.normalization import Normalization
from denseg.runs import RunFolder, SplitRow
from denseg.training.fit import fit
from denseg.training.interrupt import StopRequest
from denseg.training.progress import SilentProgress
from denseg.training.setup import TrainingData
from denseg.training.state import LoadedState, Position
from denseg.types import ClassTable

SETTINGS = (
    "model.width=0.0625",
    "train.epochs=2",
    "train.batch_size=2",
    "train.crop=32",
    "train.workers=0",
    "seed=3",
    "device=cpu",
)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data(tiny_data: Path) -> TrainingData:
    """Four training and two validation images of 48x64 and 3 classes."""
    inventory = discover(tiny_data)
    return TrainingData(
        root=tiny_data,
        train=inventory.of("train"),
        val=inventory.of("val"),
        classes=ClassTable.numbered(3),
        encoding=MaskEncoding.identity(3),
        normalization=Normalization.imagenet(),
        train_counts=(3, 2, 1),
        max_pixels=1_000_000,
    )


class Messages(SilentProgress):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


class Fitted(NamedTuple):
    """A training that came to its end."""

    run: RunFolder
    position: Position
    lines: list[str]


@pytest.fixture
def new_run(data: TrainingData, tmp_path: Path) -> Callable[..., tuple[RunFolder, RunConfig]]:
    """``new_run("train.epochs=3", name="a")`` creates a run folder with a configuration."""

    def make(*settings: str, name: str = "run") -> tuple[RunFolder, RunConfig]:
        config = load_config(settings=[*SETTINGS, *settings])
        rows = [SplitRow(pair.stem, "", "", pair.split or "", "") for pair in (*data.train, *data.val)]
        run = RunFolder.create(tmp_path / name, config=config, classes=data.classes, split=rows, environment={})
        return run, config

    return make


@pytest.fixture
def fit_run(data: TrainingData, new_run: Callable[..., tuple[RunFolder, RunConfig]]) -> Callable[..., Fitted]:
    """``fit_run("train.epochs=3", name="a")`` trains; ``stop=`` and ``progress=`` may be brought."""

    def run_it(
        *settings: str,
        name: str = "run",
        progress: Messages | None = None,
        stop: StopRequest | None = None,
        loaded: LoadedState | None = None,
        run: RunFolder | None = None,
    ) -> Fitted:
        if run is None:
            run, config = new_run(*settings, name=name)
        else:
            config = load_config(settings=[*SETTINGS, *settings])
        messages = progress or Messages()
        request = StopRequest() if stop is None else stop
        position = fit(run, config, data, progress=messages, stop=request, loaded=loaded)
        return Fitted(run, position, messages.lines)

    return run_it
