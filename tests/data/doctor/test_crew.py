# SPDX-License-Identifier: Apache-2.0
"""Workers answer every task once, also where a task kills its worker or hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from denseg.data.doctor import crew
from denseg.data.doctor.crew import process_count, work_through


def square(task: int) -> int:
    return task * task


def hostile(task: int) -> int:
    if task == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    if task == 9:
        time.sleep(60)
    return task * task


def lost(task: int, reason: str) -> str:
    return f"{task}: {reason}"


def test_short_work_is_done_here() -> None:
    assert sorted(work_through(square, range(50), lost=lost)) == [(index, index * index) for index in range(50)]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_task_is_answered_once(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setattr(crew, "INLINE_SECONDS", -1.0)
    answers = list(work_through(square, range(101), lost=lost, workers=workers))
    assert sorted(answers) == [(index, index * index) for index in range(101)]


def test_a_task_that_kills_or_hangs_costs_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "INLINE_SECONDS", -1.0)
    answers = dict(work_through(hostile, range(40), lost=lost, workers=2, limit_s=1.0))
    assert answers.pop(5) == "5: reading it crashed the decoder"
    assert answers.pop(9) == "9: reading it took more than 1 seconds"
    assert answers == {index: index * index for index in range(40) if index not in (5, 9)}


def test_workers_end_with_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "INLINE_SECONDS", -1.0)
    answers = work_through(square, range(1000), lost=lost, workers=2)
    next(answers)
    started = [process.pid for process in crew.multiprocessing.active_children()]
    answers.close()
    assert started
    assert crew.multiprocessing.active_children() == []


def test_a_script_is_not_run_again_by_workers(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from denseg.data.doctor import crew\n"
        "print('once')\n"
        "crew.INLINE_SECONDS = -1.0\n"
        "print(sorted(crew.work_through(abs, [-1, -2, -3], lost=max, workers=2)))\n"
    )
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=60)
    assert (result.stdout, result.stderr) == ("once\n[(0, 1), (1, 2), (2, 3)]\n", "")


def test_process_count() -> None:
    assert 1 <= process_count() <= (os.cpu_count() or 1)


class NeverReady(crew._Worker):
    def __init__(self, function: object) -> None:
        super().__init__(function)
        self.process.kill()
        self.process.join()


def test_where_no_process_can_be_started_the_work_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "INLINE_SECONDS", -1.0)
    monkeypatch.setattr(crew, "_Worker", NeverReady)
    answers = list(work_through(square, range(20), lost=lost, workers=2))
    assert sorted(answers) == [(index, index * index) for index in range(20)]
