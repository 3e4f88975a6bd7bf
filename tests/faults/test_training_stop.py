# SPDX-License-Identifier: Apache-2.0
"""A training that is killed or interrupted anywhere and resumed ends with the bits of one that never stopped.

One process imports torch once and forks a child per point; the child counts what happens (a backward, an optimiser
step, a flush to the disk, a rename, …) and sends itself SIGKILL or SIGINT at the event it was told.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")

DRIVER = r"""
import csv, functools, hashlib, json, os, pathlib, shutil, signal, sys
import torch
torch.set_num_threads(1)
import denseg.training.loop, denseg.training.fit, denseg.report, denseg.training.conclude
from denseg.models.tensor_file import read_tensors
from denseg.runs import RunFolder
from denseg.training.checkpoints import Keeper
from denseg.training.loop import StageLoop
import denseg.workflows.train, denseg.training.prepare
from denseg.cli import main

data, root, points = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
SIGNAL = getattr(signal, sys.argv[4])
SETTINGS = [
    "model.width=0.0625", "train.epochs=3", "train.batch_size=2", "train.crop=32", "train.workers=0", "seed=7",
    "train.optimizer=adamw", "train.learning_rate=0.003", "train.checkpoint_every=1",
]
EVENTS = [
    (os, "fsync"), (os, "replace"), (os, "link"), (pathlib.Path, "replace"), (torch.Tensor, "backward"),
    (torch.optim.AdamW, "step"), (StageLoop, "_step"), (StageLoop, "_validate"), (StageLoop, "_end_epoch"),
    (Keeper, "save"), (Keeper, "derive"), (Keeper, "scalars"), (RunFolder, "create"), (RunFolder, "set_status"),
    (RunFolder, "write_metrics"), (RunFolder, "write_evaluation"), (denseg.workflows.train, "examine"),
    (denseg.training.prepare, "prepare"), (denseg.report, "write_report"),
]


def count_events(kill_at, names):
    seen = 0
    def event(name):
        nonlocal seen
        seen += 1
        names.append(name)
        if seen == kill_at:
            os.kill(os.getpid(), SIGNAL)
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
        status = os.waitpid(child, 0)[1]
        said = (root / "stderr").read_text()
        return (-os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)), said
    descriptor = os.open(root / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 2)
    os.dup2(descriptor, 1)
    names = []
    count_events(kill_at, names)
    options = [word for setting in SETTINGS for word in ("--set", setting)]
    code = main(["train", str(data), "--model", "unet", "--out", str(out), "--resume", *options])
    (root / "events.json").write_text(json.dumps(names))
    sys.stderr.flush()
    os._exit(code)


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


def wrong_end(code, said):
    # What is wrong with how the stopped attempt ended; nothing where all is right.
    if SIGNAL == signal.SIGKILL:
        return "" if code == -signal.SIGKILL else f"was not killed: {code} {said}"
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    if code == 3 and len(errors) == 1 and "Traceback" not in said and "--resume" in errors[0]:
        return ""
    return f"ended with {code}: {said}"


whole = root / "whole"
code, said = attempt(whole)
assert code == 0, said
expected = result(whole)
names = json.loads((root / "events.json").read_text())
answer = {"events": len(names), "status": expected[1], "leftovers": expected[2], "wrong": [], "points": []}
# The first events make the folder: each is a state of its own. Later ones repeat from epoch to epoch.
chosen = {*range(1, 31, 3), *range(31, len(names) + 1, max(1, len(names) // points)), len(names)}
for point in sorted(chosen):
    out = root / f"stopped-{point}"
    where = f"{point}: {names[point - 1]}"
    answer["points"].append(where)
    wrong = wrong_end(*attempt(out, kill_at=point))
    if wrong:
        answer["wrong"].append(f"{where}: {wrong}")
    code, said = attempt(out)
    got = result(out) if code == 0 else ("failed", said, [])
    if got != expected:
        answer["wrong"].append(f"{where}: {got}")
    shutil.rmtree(out, ignore_errors=True)
print(json.dumps(answer))
"""


def drive(data: Path, root: Path, points: int, name: str) -> dict[str, Any]:
    finished = subprocess.run(
        [sys.executable, "-c", DRIVER, str(data), str(root), str(points), name],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    answer: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_stopped_anywhere_and_resumed_gives_the_same_bits(tiny_data: Path, tmp_path: Path, name: str) -> None:
    answer = drive(tiny_data, tmp_path, 14, name)
    assert answer["wrong"] == []
    assert answer["status"] == "finished"
    assert answer["leftovers"] == []
    assert len(answer["points"]) >= 20
