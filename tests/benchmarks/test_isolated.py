# SPDX-License-Identifier: Apache-2.0
"""Steps in a process of their own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks.isolated import Isolated


def note_process(folder: str) -> Callable[[], object]:
    """Make a step that leaves a file named by its process and count."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        Path(folder, f"{os.getpid()}-{count}").touch()

    return step


def break_down() -> Callable[[], object]:
    """Make nothing."""
    raise ValueError("no such network")


def break_later() -> Callable[[], object]:
    """Make a step that fails."""
    return lambda: 1 / 0


def test_steps_run_elsewhere_and_are_over_when_they_return(tmp_path: Path) -> None:
    with Isolated(note_process, str(tmp_path)) as step:
        for count in (1, 2, 3):
            step()
            assert len(list(tmp_path.iterdir())) == count
    (process,) = {path.name.partition("-")[0] for path in tmp_path.iterdir()}
    assert int(process) != os.getpid()


def test_failures_come_back() -> None:
    with pytest.raises(RuntimeError, match=r"^ValueError: no such network$"):
        Isolated(break_down)
    step = Isolated(break_later)
    with pytest.raises(RuntimeError, match=r"^ZeroDivisionError: division by zero$"):
        step()
