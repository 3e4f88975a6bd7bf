# SPDX-License-Identifier: Apache-2.0
"""A training that is killed anywhere and resumed ends with the bits of one that never stopped.

One process imports torch once and forks a child per kill point; the child counts what happens (a backward, an optimiser
step, a flush to the disk, a rename, …) and kills itself, with SIGKILL, at the event it was told.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")

DRIVER = r"""
import csv, functools, hashlib, json, os, pathlib, shutil, signal, sys, traceback
import torch
torch.set_num_threads(1)
import denseg.training.loop, denseg.training.fit, denseg.report, denseg.training.conclude
from denseg.models.tensor_file import read_tensors
from denseg.runs import RunFolder
from denseg.training.checkpoints import Keeper
from denseg.training.loop import StageLoop
from denseg.workflows.train import train

data, root, points = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
SETTINGS = [
    "model.width=0.0625", "train.epochs=3", "train.batch_size=2", "train.crop=32", "train.workers=0", "seed=7",
    "train.optimizer=adamw", "train.learning_rate=0.003", "train.checkpoint_every=1",
]
EVENTS = [
    (os, "fsync"), (os, "replace"), (os, "link"), (pathlib.Path, "replace"), (torch.Tensor, "backward"),
    (torch.optim.AdamW, "step"), (StageLoop, "_step"), (StageLoop, "_validate"), (StageLoop, "_end_epoch"),
    (Keeper, "save"), (Keeper, "derive"), (Keeper, "scalars"), (RunFolder, "create"), (RunFolder, "set_status"),
    (RunFolder, "write_metrics"), (RunFolder, "write_evaluation"),
]


def count_events(kill_at, names):
    seen = 0
    def event(name):
        nonlocal seen
        seen += 1
        names.append(name)
        if seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    for owner, name in EVENTS:
        inner = getattr(owner, name)
        @functools.wraps(inner)
        def outer(*args, _inner=inner, _name=name, **kwargs):
            event(f"before {_name}")
            result = _inner(*args, **kwargs)
            event(f"after {_name}")
            return result
        setattr(owner, name, staticmethod(outer) if name == "create" else outer)


def attempt(out, *, kill_at=None):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    names = []
    try:
        count_events(kill_at, names)
        train(data, model="unet", settings=SETTINGS, out=out, resume=True, progress=False)
        (root / "events.json").write_text(json.dumps(names))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def result(out):
    digest = hashlib.sha256()
    for name in ("state", "last", "best"):
        tensors, _ = read_tensors(out / "checkpoints" / f"{name}.safetensors")
        for key in sorted(tensors):
            digest.update(key.encode() + tensors[key].contiguous().numpy().tobytes())
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    for row in rows:
        del row["seconds"], row["images_per_second"]
    digest.update(json.dumps(rows).encode())
    digest.update((out / "evaluation" / "val.json").read_bytes())
    leftovers = sorted(str(path) for path in out.rglob("*.tmp"))
    return digest.hexdigest(), RunFolder.open(out).status, leftovers


whole = root / "whole"
assert attempt(whole) == 0
expected = result(whole)
names = json.loads((root / "events.json").read_text())
answer = {"events": len(names), "status": expected[1], "leftovers": expected[2], "wrong": [], "points": []}
step = max(1, len(names) // points)
for point in range(1, len(names) + 1, step):
    out = root / f"killed-{point}"
    status = attempt(out, kill_at=point)
    where = f"{point}: {names[point - 1]}"
    answer["points"].append(where)
    if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
        answer["wrong"].append(f"{where}: was not killed")
        continue
    again = attempt(out)
    got = result(out) if again == 0 else ("failed", again, [])
    if got != expected:
        answer["wrong"].append(f"{where}: {got}")
    shutil.rmtree(out)
print(json.dumps(answer))
"""


def drive(data: Path, root: Path, points: int) -> dict[str, object]:
    finished = subprocess.run(
        [sys.executable, "-c", DRIVER, str(data), str(root), str(points)],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr[-3000:]
    answer: dict[str, object] = json.loads(finished.stdout.splitlines()[-1])
    return answer


def test_killed_anywhere_and_resumed_gives_the_same_bits(tiny_data: Path, tmp_path: Path) -> None:
    answer = drive(tiny_data, tmp_path, 24)
    assert answer["wrong"] == []
    assert answer["status"] == "finished"
    assert answer["leftovers"] == []
    assert len(answer["points"]) >= 20
