# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from denseg.training.events import EventLog


def read(folder: Path) -> Any:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return events


def test_tensorboard_reads_what_is_written(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.scalars(3, {"train/loss": 0.5, "val/miou": None, "val/loss": float("nan")})
    log.scalars(6, {"train/loss": 0.25})
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[1, 2] = (10, 20, 30)
    log.image(6, "val/first", picture)
    log.close()
    events = read(tmp_path)
    assert events.Tags()["scalars"] == ["train/loss"]
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(3, 0.5), (6, 0.25)]
    shown = np.asarray(Image.open(io.BytesIO(events.Images("val/first")[0].encoded_image_string)))
    assert (shown == picture).all()


def test_a_resumed_run_forgets_the_steps_that_it_takes_again(tmp_path: Path) -> None:
    first = EventLog(tmp_path)
    for step in (1, 2, 3):
        first.scalars(step, {"loss": float(step)})
    first.close()
    second = EventLog(tmp_path, step=3)
    second.scalars(3, {"loss": 30.0})
    second.close()
    assert [(event.step, event.value) for event in read(tmp_path).Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_a_log_that_cannot_be_written_is_given_up_quietly(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "absent")
    log.scalars(1, {"loss": 1.0})
    log.flush()
    log.close()
    assert "No such file" in log.failure


def test_a_full_disk_ends_the_log_not_the_training() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    log = EventLog(Path("/tmp"))  # noqa: S108 - replaced at once
    file = log._file
    assert file is not None
    Path(file.name).unlink()
    file.close()
    log._file = full.open("wb")
    log.scalars(1, {"loss": 1.0})
    log.flush()
    assert log.failure == "No space left on device"
    log.scalars(2, {"loss": 1.0})
    log.close()
