# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from denseg import __version__
from denseg.config import load_config
from denseg.errors import OutputError, RunError
from denseg.runs import RunFolder, SplitRow, describe_environment, latest_run_path, lock_run, next_run_path
from denseg.runs.environment import source_commit
from denseg.runs.tables import format_rows, metric_columns, parse_metrics, parse_split
from denseg.types import ClassTable

CLASSES = ClassTable(("cell, round", 'wall "thin"', "ä"), ((0, 0, 0), (1, 2, 3), (255, 255, 255)), 255)
SPLIT = [
    SplitRow("a", "images/a.png", "masks/a.png", "train", "0" * 64),
    SplitRow("b, c", "images/b, c.png", "masks/b, c.png", "val", "1" * 64),
]


def create(path: Path, **changes: Any) -> RunFolder:
    arguments: dict[str, Any] = {
        "config": load_config(settings=["train.epochs=3", "model.dilations=[2, 4]"]),
        "classes": CLASSES,
        "split": SPLIT,
        "environment": describe_environment(["denseg", "train", "my data"]),
        "check": {"ok": True, "findings": []},
    }
    return RunFolder.create(path, **(arguments | changes))


def test_everything_written_is_read_back_equal(tmp_path: Path) -> None:
    create(tmp_path / "deep" / "run")
    run = RunFolder.open(tmp_path / "deep" / "run")
    assert run.config() == load_config(settings=["train.epochs=3", "model.dilations=[2, 4]"])
    assert run.classes() == CLASSES
    assert run.split() == SPLIT
    assert run.split("val") == SPLIT[1:]
    assert run.check() == {"ok": True, "findings": []}
    assert run.environment()["command"] == "denseg train 'my data'"
    assert run.metrics() == []
    assert run.status == "starting"
    assert run.record()["denseg"] == __version__


def test_metrics_keep_every_bit_and_empty_cells(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    rows: list[dict[str, Any]] = [
        {"stage": "1", "epoch": 1, "step": 10, "loss": 0.1 + 0.2, "val_miou": None, 'iou/wall "thin"': 1e-17},
        {"stage": "two, three", "epoch": 2, "step": 20, "loss": 1 / 3, "iou/cell, round": 0.0},
    ]
    run.write_metrics(rows)
    read = run.metrics()
    assert list(read[0]) == list(metric_columns(CLASSES.names))
    for row, wanted in zip(read, rows, strict=True):
        assert {key: value for key, value in row.items() if value is not None} == {
            key: value for key, value in wanted.items() if value is not None
        }


def test_status_keeps_what_was_said_before(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    run.set_status("running", epoch=3)
    run.set_status("failed", message="no space")
    assert run.status == "failed"
    assert run.record()["epoch"] == 3
    assert run.record()["message"] == "no space"


def test_evaluations(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    assert run.evaluations() == ()
    run.write_evaluation("val", {"miou": 0.5})
    run.write_evaluation("test", {"miou": None})
    assert run.evaluations() == ("test", "val")
    assert run.evaluation("val") == {"format": 1, "miou": 0.5}
    assert run.prediction_path("val", "a/b") == run.path / "evaluation" / "val" / "a/b.png"
    with pytest.raises(RunError) as caught:
        run.evaluation("train")
    assert str(caught.value) == f"the run {run.path} has no evaluation of 'train'; evaluated: test, val"


def test_checkpoint_is_best_then_last(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    assert not run.has_checkpoint
    with pytest.raises(RunError) as caught:
        run.checkpoint()
    assert str(caught.value) == f"the run {run.path} has no checkpoint yet; train it first (--resume goes on)"
    run.last_path.write_bytes(b"")
    assert run.checkpoint() == run.last_path
    run.best_path.write_bytes(b"")
    assert run.checkpoint() == run.best_path
    assert run.has_checkpoint


def test_a_run_without_check_has_none(tmp_path: Path) -> None:
    assert create(tmp_path / "run", check=None).check() is None


def test_opening_what_is_no_run_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name, message in {
        "absent": "no run at {}: there is no such folder",
        "file": "no run at {}: it is a file; give the run's folder",
        "empty": "no run at {}: the folder holds no run.json",
    }.items():
        with pytest.raises(RunError) as caught:
            RunFolder.open(tmp_path / name)
        assert str(caught.value) == message.format(tmp_path / name)
        assert caught.value.path == tmp_path / name


def test_a_newer_run_is_refused(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    (run.path / "run.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(RunError) as caught:
        RunFolder.open(run.path)
    assert str(caught.value) == f"the run {run.path} has format 2, denseg {__version__} reads to 1; update denseg"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(RunError) as caught:
        create(other)
    assert str(caught.value) == f"{other} is not empty and holds no run; choose another --out"
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(RunError) as caught:
        create(file)
    assert str(caught.value) == f"cannot create the run {file}: a file of that name is there; choose another --out"
    run = create(tmp_path / "run")
    run.state_path.write_bytes(b"")
    with pytest.raises(RunError) as caught:
        create(run.path)
    assert (
        str(caught.value)
        == f"{run.path} holds a run that is not finished; go on with --resume, or choose another --out"
    )
    run.set_status("finished")
    with pytest.raises(RunError) as caught:
        create(run.path)
    assert str(caught.value) == f"{run.path} holds a finished run; choose another --out"
    assert (other / "thesis.txt").read_text() == "mine"


def test_a_run_that_never_took_a_step_is_replaced(tmp_path: Path) -> None:
    create(tmp_path / "run")
    create(tmp_path / "run", split=SPLIT[:1])
    assert RunFolder.open(tmp_path / "run").split() == SPLIT[:1]


@pytest.mark.parametrize("name", ["config.yaml", "classes.yaml", "split.csv", "environment.json", "run.json"])
def test_damage_names_the_file(tmp_path: Path, name: str) -> None:
    run = create(tmp_path / "run")
    (run.path / name).write_text("{[ nonsense")

    def read() -> None:
        run.record(), run.config(), run.classes(), run.split(), run.environment()

    with pytest.raises(RunError) as caught:
        read()
    assert str(caught.value).startswith(f"the run {run.path} is damaged: {name}")
    assert "\n" not in str(caught.value)
    (run.path / name).unlink()
    with pytest.raises(RunError) as caught:
        read()
    assert str(caught.value) == f"the run {run.path} is incomplete: {name} is missing"


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    left = [run.path / ".config.yaml.1-ab.tmp", run.path / "checkpoints" / ".last.safetensors.1-ab.tmp"]
    for path in left:
        path.write_text("")
    run.remove_leftovers()
    assert not any(path.exists() for path in left)
    assert run.config()


def test_leftovers_of_a_process_killed_at_its_first_write_are_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in (".lock", ".run.json.12-ab.tmp"):
        (tmp_path / "run" / name).write_text("")
    run = create(tmp_path / "run")
    assert sorted(path.name for path in run.path.iterdir() if path.name.startswith(".")) == [".lock"]


def test_names_of_runs_count_up(tmp_path: Path) -> None:
    assert next_run_path(tmp_path / "absent", "a-b") == tmp_path / "absent" / "a-b"
    assert latest_run_path(tmp_path, "a-b") is None
    for name in ("a-b", "a-b-2", "a-b-10", "a-b-c", "xa-b"):
        (tmp_path / name).mkdir()
    assert next_run_path(tmp_path, "a-b") == tmp_path / "a-b-11"
    assert latest_run_path(tmp_path, "a-b") == tmp_path / "a-b-10"


def test_one_process_at_a_time(tmp_path: Path) -> None:
    code = "import sys; from denseg.runs import lock_run\nwith lock_run(__import__('pathlib').Path(sys.argv[1])): pass"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with lock_run(tmp_path):
        other = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert other.stderr.splitlines()[-1] == (
        f"denseg.errors.RunError: another process is training in {tmp_path}; wait for it, or choose another --out"
    )
    assert subprocess.run(command, check=False, timeout=60).returncode == 0


def test_a_lock_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError), lock_run(tmp_path / "absent"):
        pass


def test_environment_names_versions_machine_and_facts() -> None:
    environment = describe_environment(["denseg"], device="cpu")
    assert environment["denseg"] == __version__
    assert environment["packages"]["torch"] != "absent"
    assert environment["cores"] >= 1
    assert environment["device"] == "cpu"
    assert json.loads(json.dumps(environment)) == environment


def test_commit_is_that_of_git(repository: Path) -> None:
    if not (repository / ".git").exists():
        assert source_commit() == ""
        return
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True, check=True)
    assert source_commit() == asked.stdout.strip()


def test_runs_import_no_torch() -> None:
    code = "import sys, denseg.runs; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_tables_round_trip() -> None:
    assert parse_split(format_rows(SplitRow._fields, (row._asdict() for row in SPLIT))) == SPLIT
    parts = [SplitRow("c", "images/c.tif", "masks/c.tif", "train", "2" * 64, 4, 3, "0,64,32,32")]
    assert parse_split(format_rows(SplitRow._fields, (row._asdict() for row in parts))) == parts
    older = format_rows(SplitRow._fields[:5], (row._asdict() for row in SPLIT))
    assert parse_split(older) == SPLIT
    with pytest.raises(RunError, match=r"^line 2 holds a page that is no number$"):
        parse_split("stem,image,mask,split,sha256,image_page\na,b,c,train,d,x\n")
    assert parse_metrics("stage,epoch,loss,note\n7,1,nan,x\n")[0] | {"loss": None} == {
        "stage": "7",
        "epoch": 1,
        "loss": None,
        "note": "x",
    }
