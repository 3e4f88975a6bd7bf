# SPDX-License-Identifier: Apache-2.0
"""Two processes equal one process that accumulates the same micro-batches, bit for bit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed

from denseg.models.tensor_file import read_tensors
from denseg.runs import RunFolder

SMALL = (
    "model.width=0.0625",
    "train.epochs=2",
    "train.crop=32",
    "train.workers=0",
    "train.freeze_norm=true",
    "train.optimizer=adamw",
    "train.batch_size=2",
    "train.ema=0.9",
    "train.loss={cross_entropy: 1.0, hfd: 0.1}",
)


def settings(*more: str) -> list[str]:
    return ["--model", "unet", "--device", "cpu", *(word for value in (*SMALL, *more) for word in ("--set", value))]


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
def test_two_processes_equal_one_that_accumulates(
    run_command: Callable[..., Any], make_pairs: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_pairs(tmp_path / "data", {"train": 9, "val": 3})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        single = run_command("train", data, *settings("train.accumulate=2"), "--out", tmp_path / "one")
    finally:
        torch.set_num_threads(threads)
    assert single.code == 0, single.stderr
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, "-m", "denseg", "train", str(data), *settings(), "--out", str(tmp_path / "two")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        stdout, stderr = process.communicate(timeout=200)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the launcher's children too
    assert process.returncode == 0, stderr[-3000:]
    assert stdout.count("report    ") == 1, "one process tells"
    one, two = (read_tensors(RunFolder(tmp_path / name).state_path) for name in ("one", "two"))
    assert one[0].keys() == two[0].keys()
    assert {name.partition("/")[0] for name in one[0]} == {"ema", "loss", "model", "optimizer"}
    assert [name for name in one[0] if not torch.equal(one[0][name], two[0][name])] == []
    tables = []
    for name in ("one", "two"):
        rows = RunFolder(tmp_path / name).metrics()
        tables.append([{key: row[key] for key in row if key not in {"seconds", "images_per_second"}} for row in rows])
    assert tables[0] == tables[1]
