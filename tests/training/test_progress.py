# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from denseg.training.progress import BarProgress, LineProgress, Progress, SilentProgress, create_progress


def use(progress: Progress) -> None:
    progress.work("read", 1, 2)
    progress.message("a line [with brackets]")
    progress.start("train", 4, 1, 8)
    progress.step(epoch="1/2", loss=None, learning_rate=0.1)
    progress.step(epoch="1/2", loss=0.5, learning_rate=0.1)
    progress.work("validate", 1, 2)
    progress.work("validate", 2, 2)
    progress.step(epoch="2/2", loss=0.25, learning_rate=0.05)
    progress.close()
    progress.close()


def test_silence_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    use(SilentProgress())
    assert capsys.readouterr() == ("", "")


def test_lines_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    use(LineProgress())
    assert capsys.readouterr() == ("", "a line [with brackets]\n")


def test_the_bar_shows_epoch_loss_rate_and_speed() -> None:
    bar = BarProgress()
    screen = io.StringIO()
    bar._console = Console(file=screen, force_terminal=True, width=160, highlight=False)
    use(bar)
    shown = screen.getvalue()
    for text in (
        "a line [with brackets]",
        "read",
        "train",
        "validate",
        "epoch 2/2",
        "loss 0.2500",
        "lr 5.00e-02",
        "images/s",
    ):
        assert text in shown
    assert shown.endswith("\x1b[2K")  # the bar is gone
    assert "\x1b[?25h" in shown  # and the cursor is back


def test_steps_before_a_start_are_harmless() -> None:
    BarProgress().step(epoch="1/1", loss=None, learning_rate=0.1)


def test_the_display_fits_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(create_progress(enabled=False), SilentProgress)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(create_progress(), LineProgress)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert isinstance(create_progress(), BarProgress)


def test_long_epochs_are_told_about_in_between(capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress(every=0)
    progress.start("train", 10, 4, 8)
    progress.step(epoch="3/40", loss=0.5, learning_rate=0.01)
    line = capsys.readouterr().err
    assert line.startswith("train 3/40: step 5/10  loss 0.5000  lr 1.00e-02  ")
    assert line.endswith(" images/s  about 1 min left\n")
    progress = LineProgress(every=3600)
    progress.start("train", 10, 4, 8)
    progress.step(epoch="3/40", loss=None, learning_rate=0.01)
    assert capsys.readouterr().err == ""
