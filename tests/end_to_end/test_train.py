# SPDX-License-Identifier: Apache-2.0
"""``denseg train`` as a person uses it: run folder, messages, exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from denseg.models import load_checkpoint
from denseg.models.tensor_file import read_tensors
from denseg.runs import RunFolder

SMALL = ("model.width=0.0625", "train.epochs=2", "train.batch_size=2", "train.crop=32", "train.workers=0")
OPTIONS = ["--model", "unet", "--device", "cpu", *(word for setting in SMALL for word in ("--set", setting))]

Run = Callable[..., Any]


def digest(path: Path) -> str:
    tensors, _ = read_tensors(path)
    value = hashlib.sha256()
    for name in sorted(tensors):
        value.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return value.hexdigest()


@pytest.fixture
def trained(run_command: Run, tiny_data: Path, tmp_path: Path) -> Path:
    """A finished run."""
    result = run_command("train", tiny_data, *OPTIONS, "--out", tmp_path / "run")
    assert result.code == 0, result.stderr
    return tmp_path / "run"


def test_a_training_leaves_a_whole_run(run_command: Run, tiny_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    result = run_command("train", tiny_data, *OPTIONS, "--out", out, "--json", tmp_path / "result.json")
    assert result.code == 0, result.stderr
    assert f"run       {out} (best epoch " in result.stdout
    assert "val       mIoU 0." in result.stdout
    assert "epoch 2/2  loss " in result.stderr
    assert "Traceback" not in result.stderr
    run = RunFolder.open(out)
    assert run.status == "finished"
    assert [row.split for row in run.split()] == ["train"] * 4 + ["val"] * 2
    assert all(len(row.sha256) == 64 for row in run.split())
    assert run.config().train.epochs == 2
    assert run.check() is not None
    scores = run.evaluation("val")
    assert scores["images"] == 2
    assert scores["baseline_miou"] > 0
    assert {path.name for path in (out / "evaluation" / "val").iterdir()} == {
        f"{row.stem}.png" for row in run.split("val")
    }
    with Image.open(run.prediction_path("val", run.split("val")[0].stem)) as prediction:
        assert (prediction.mode, prediction.size) == ("P", (64, 48))
    assert "<html" in run.report_path.read_text()
    told = json.loads((tmp_path / "result.json").read_text())
    assert told["status"] == "finished"
    assert told["val"]["miou"] == scores["miou"]
    assert load_checkpoint(out).metadata["training"]["class_pixels"] == run_class_pixels(tiny_data, run)


def run_class_pixels(data: Path, run: RunFolder) -> list[int]:
    masks = [np.asarray(Image.open(data / row.mask)) for row in run.split("train")]
    return [sum(int((mask == index).sum()) for mask in masks) for index in range(3)]


def test_eval_gives_the_run_s_own_numbers(run_command: Run, tiny_data: Path, trained: Path, tmp_path: Path) -> None:
    result = run_command("eval", trained, tiny_data, "--json", tmp_path / "scores.json", "--device", "cpu")
    assert result.code == 0, result.stderr
    own, told = RunFolder(trained).evaluation("val"), json.loads((tmp_path / "scores.json").read_text())
    assert {key: told[key] for key in own if key != "format"} == {key: own[key] for key in own if key != "format"}


def test_a_finished_run_is_not_touched(run_command: Run, tiny_data: Path, trained: Path) -> None:
    before = digest(trained / "checkpoints" / "state.safetensors")
    again = run_command("train", tiny_data, *OPTIONS, "--out", trained)
    assert again.code == 1
    assert again.stderr == f"error: {trained} holds a finished run; choose another --out\n"
    resumed = run_command("train", tiny_data, *OPTIONS, "--out", trained, "--resume")
    assert resumed.code == 0
    assert resumed.stdout.startswith(f"{trained} is finished; nothing was done\nrun       {trained}")
    other = run_command("train", tiny_data, *OPTIONS, "--set", "train.epochs=7", "--out", trained, "--resume")
    assert other.code == 2
    assert other.stderr == (
        f"error: {trained} was started with train.epochs=2, and --resume goes on with it; got 7: "
        "leave it out, or choose another --out\n"
    )
    assert digest(trained / "checkpoints" / "state.safetensors") == before


def test_the_resolved_config_replays_the_run(run_command: Run, tiny_data: Path, trained: Path, tmp_path: Path) -> None:
    again = run_command("train", tiny_data, "--recipe", trained / "config.yaml", "--out", tmp_path / "again")
    assert again.code == 0, again.stderr
    for name in ("state", "best", "last"):
        files = [folder / "checkpoints" / f"{name}.safetensors" for folder in (trained, tmp_path / "again")]
        assert digest(files[0]) == digest(files[1])


def test_what_is_left_open_is_decided_and_written(run_command: Run, tiny_data: Path, tmp_path: Path) -> None:
    settings = ["--set", "model.width=0.0625", "--set", "train.iterations=1", "--set", "train.workers=0"]
    result = run_command("train", tiny_data, "--model", "unet", *settings, "--device", "cpu", "--out", tmp_path / "run")
    assert result.code == 0, result.stderr
    config = RunFolder(tmp_path / "run").config()
    assert config.train.crop == (48, 64)
    assert config.data.path == str(tiny_data.resolve())
    assert config.train.iterations == 1


def test_runs_without_a_name_count_up(
    run_command: Run, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short = [*OPTIONS, "--set", "train.epochs=1"]
    for _ in range(2):
        assert run_command("train", tiny_data, *short).code == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["data-unet", "data-unet-2"]
    resumed = run_command("train", tiny_data, *short, "--resume")
    assert resumed.stdout.startswith("runs/data-unet-2 is finished; nothing was done")


def test_a_flat_folder_gets_a_seeded_split(run_command: Run, make_pairs: Run, tmp_path: Path) -> None:
    data = make_pairs(tmp_path / "flat", {"": 10})
    for name in ("a", "b"):
        result = run_command("train", data, *OPTIONS, "--set", "train.epochs=1", "--out", tmp_path / name)
        assert result.code == 0, result.stderr
        assert "split: the folder has no val, so 2 of 10 pictures are held out" in result.stderr
    splits = [RunFolder(tmp_path / name).split() for name in ("a", "b")]
    assert splits[0] == splits[1]
    assert sum(row.split == "val" for row in splits[0]) == 2


def test_a_label_out_of_range_stops_before_anything_is_written(
    run_command: Run, make_pairs: Run, tmp_path: Path
) -> None:
    data = make_pairs(tmp_path / "data", {"train": 3, "val": 1})
    (data / "dataset.yaml").write_text("classes: [{name: a}, {name: b}, {name: c}]\n")
    mask = data / "masks" / "train" / "train_001.png"
    labels = np.asarray(Image.open(mask)).copy()
    labels[0, 0] = 7
    Image.fromarray(labels).save(mask)
    result = run_command("train", data, *OPTIONS, "--out", tmp_path / "run")
    assert result.code == 1
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: training did not start: ")
    assert "7" in line
    assert str(mask) in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "unett"], 2, "no model named 'unett'. Did you mean 'unet'?"),
        (["--set", "train.epoch=3"], 2, "no setting named train.epoch. Did you mean train.epochs?"),
        (["--set", "train.metric=mioo"], 2, "train.metric: no score named 'mioo'. Did you mean 'miou'?"),
        (["--set", "model.widht=2"], 2, "has no option 'widht'. Did you mean 'width'?"),
        (["--set", "train.loss={dise: 1}"], 2, "no loss named 'dise'. Did you mean 'dice'?"),
        (
            ["--set", "train.parts={heat: {learning_rate: 2}}"],
            2,
            "this network has no part 'heat'. Did you mean 'head'?",
        ),
        (["--device", "tpu"], 2, "device is auto, cpu, cuda, cuda:N or mps; got 'tpu'"),
        (["--init", "nowhere"], 1, "no checkpoint "),
        (["--recipe", "nope"], 2, "no recipe named 'nope'."),
    ],
)
def test_mistakes_are_one_line_with_the_right_code(
    run_command: Run, tiny_data: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    result = run_command("train", tiny_data, *OPTIONS, *arguments, "--out", tmp_path / "run")
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert result.code == code
    assert "Traceback" not in result.stderr
    told_late = {"--set"} & set(arguments) and ("metric" in arguments[-1] or "parts" in arguments[-1])
    assert told_late or " pairs (" not in result.stderr, "a misspelt name must not wait for the data"
    # The mistake mended, the same folder serves.
    assert run_command("train", tiny_data, *OPTIONS, "--out", tmp_path / "run").code == 0


def stop_after_first_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C at the first look after an epoch was saved."""
    from denseg.training.checkpoints import Keeper

    derive = Keeper.derive

    def stop(self: Keeper, *arguments: Any, **values: Any) -> None:
        derive(self, *arguments, **values)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Keeper, "derive", stop)


@pytest.fixture
def stopped(run_command: Run, make_pairs: Run, tmp_path: Path) -> tuple[Path, Path]:
    """A data folder of its own and a run that was stopped in its second epoch."""
    data = make_pairs(tmp_path / "data", {"train": 4, "val": 2})
    with pytest.MonkeyPatch.context() as patch:
        stop_after_first_epoch(patch)
        result = run_command("train", data, *OPTIONS, "--out", tmp_path / "stopped")
    assert result.code == 3
    assert result.stderr.splitlines()[-1] == (
        "error: stopped in epoch 2 of 2, step 3 of 4; "
        f"everything is saved in {tmp_path / 'stopped'}: go on with --resume"
    )
    assert RunFolder(tmp_path / "stopped").status == "interrupted"
    return data, tmp_path / "stopped"


def test_an_interrupted_run_goes_on(run_command: Run, stopped: tuple[Path, Path], tmp_path: Path) -> None:
    data, run = stopped
    refused = run_command("train", data, *OPTIONS, "--out", run)
    assert refused.code == 1
    assert refused.stderr == (
        f"error: {run} holds a run that is not finished; go on with --resume, or choose another --out\n"
    )
    resumed = run_command("train", data, *OPTIONS, "--set", "train.workers=1", "--out", run, "--resume")
    assert resumed.code == 0, resumed.stderr
    assert f"resume {run}: 1 epoch and 1 step are done" in resumed.stderr
    whole = run_command("train", data, *OPTIONS, "--out", tmp_path / "whole")
    assert whole.code == 0
    for name in ("state", "best", "last"):
        files = [folder / "checkpoints" / f"{name}.safetensors" for folder in (run, tmp_path / "whole")]
        assert digest(files[0]) == digest(files[1])


def test_resume_needs_no_more_than_the_run_s_name(run_command: Run, stopped: tuple[Path, Path]) -> None:
    data, run = stopped
    assert run_command("train", data, "--out", run, "--resume").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "train.epochs=5"], "was started with train.epochs=2, and --resume goes on with it; got 5: "),
        (["--model", "fcn"], "was started with model.name=unet, and --resume goes on with it; got fcn: "),
        (["--set", "seed=4"], "was started with seed=0, and --resume goes on with it; got 4: "),
    ],
)
def test_resume_does_not_take_other_settings(
    run_command: Run, stopped: tuple[Path, Path], arguments: list[str], message: str
) -> None:
    data, run = stopped
    result = run_command("train", data, *arguments, "--out", run, "--resume")
    assert result.code == 2
    assert result.stderr == f"error: {run} {message}leave it out, or choose another --out\n"


def test_resume_refuses_other_data(run_command: Run, stopped: tuple[Path, Path], tmp_path: Path) -> None:
    data, run = stopped
    other = shutil.copytree(data, tmp_path / "other")
    result = run_command("train", other, "--out", run, "--resume")
    assert result.code == 2
    assert result.stderr == f"error: {run} was trained on {data}, not on {other}; choose another --out\n"
    image = data / "images" / "train" / "train_001.png"
    content = image.read_bytes()
    future = time.time() + 5
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(image)
    os.utime(image, (future, future))
    result = run_command("train", data, "--out", run, "--resume")
    assert result.code == 1
    assert result.stderr.splitlines()[-1] == (
        f"error: {image} or its mask changed since the run {run} began; "
        "put the old files back, or start a new run from another --out"
    )
    image.unlink()
    result = run_command("train", data, "--out", run, "--resume")
    assert result.code == 1
    assert result.stderr.splitlines()[-1] == (
        f"error: the run {run} trains on images/train/train_001.png, which is gone from {data}; "
        "put it back, or start a new run"
    )
    image.write_bytes(content)
    os.utime(image, (future, future))
    assert run_command("train", data, "--out", run, "--resume").code == 0


def test_resume_uses_the_state_before_a_damaged_one(run_command: Run, stopped: tuple[Path, Path]) -> None:
    data, run = stopped
    path = run / "checkpoints" / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    result = run_command("train", data, "--out", run, "--resume")
    assert result.code == 0, result.stderr
    note = next(line for line in result.stderr.splitlines() if "damaged" in line)
    assert str(path) in note
    assert f"going on from {run / 'checkpoints' / 'state.previous.safetensors'}" in note


def test_weights_without_a_state_cannot_go_on(run_command: Run, stopped: tuple[Path, Path]) -> None:
    data, run = stopped
    for path in (run / "checkpoints").glob("state*"):
        path.unlink()
    result = run_command("train", data, "--out", run, "--resume")
    assert result.code == 1
    assert result.stderr == (
        f"error: {run} holds weights but no state to resume from; start from them in another --out with --init {run}\n"
    )


def test_resume_without_a_run_starts_it(run_command: Run, tiny_data: Path, tmp_path: Path) -> None:
    assert run_command("train", tiny_data, *OPTIONS, "--out", tmp_path / "new", "--resume").code == 0


def test_sixteen_bit_pictures_of_five_bands(run_command: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "masks"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
        for index in range(count):
            labels = rng.integers(0, 2, (40, 56)).astype(np.uint8)
            bands = (labels[:, :, None].astype(int) * 9000 + rng.integers(0, 3000, (40, 56, 5))).astype(np.uint16)
            tifffile.imwrite(
                tmp_path / "data" / "images" / split / f"{index}.tif",
                bands,
                photometric="minisblack",
                planarconfig="contig",
            )
            Image.fromarray(labels).save(tmp_path / "data" / "masks" / split / f"{index}.png")
    result = run_command("train", tmp_path / "data", *OPTIONS, "--out", tmp_path / "run")
    assert result.code == 0, result.stderr
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.metadata["model"]["arguments"]["in_channels"] == 5
    assert checkpoint.metadata["normalization"]["scale"] == 65535
    assert 0.05 < checkpoint.metadata["normalization"]["mean"][0] < 0.15


@pytest.mark.parametrize("delay", [0.6, 1.5, 3.0, 5.0])
def test_ctrl_c_at_any_moment_of_a_real_process(tiny_data: Path, tmp_path: Path, delay: float) -> None:
    command = [sys.executable, "-m", "denseg", "train", str(tiny_data), *OPTIONS, "--set", "train.epochs=500"]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "run")], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3, said
    assert "Traceback" not in said
    assert sum(line.startswith("error: ") for line in said.splitlines()) == 1


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups")
def test_a_signal_to_the_whole_group_saves(tiny_data: Path, tmp_path: Path) -> None:
    """As a terminal, `timeout` and a batch system send it: the loader's workers must not die of it."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "denseg", "train", str(tiny_data), *OPTIONS, "--set", "train.epochs=5000"]
    process = subprocess.Popen(
        [*command, "--set", "train.workers=2", "--out", str(run)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    while not (line := process.stderr.readline()).startswith("epoch 1/"):
        assert line, "it ended before its first epoch"
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3, said
    last = said.splitlines()[-1]
    assert last.startswith("error: stopped in epoch ")
    assert last.endswith(f"everything is saved in {run}: go on with --resume")
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody is left


def test_a_file_limit_stops_with_one_line_and_keeps_what_was(tiny_data: Path, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    command = [sys.executable, "-m", "denseg", "train", str(tiny_data), *OPTIONS, "--out", str(tmp_path / "run")]
    result = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        f"error: cannot write {tmp_path / 'run' / 'checkpoints' / 'state.safetensors'}: "
        "the file would be larger than the limit set for this process or file system"
    )
    assert "Traceback" not in result.stderr
    assert not list((tmp_path / "run").rglob("*.tmp"))
    assert RunFolder(tmp_path / "run").status == "failed"
    assert subprocess.run(command, capture_output=True, check=False, timeout=120).returncode == 0


SPAWNED = """
import multiprocessing, sys
from denseg.cli import main

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_spawned_workers_give_the_same_bits(run_command: Run, tiny_data: Path, trained: Path, tmp_path: Path) -> None:
    """As on Windows and macOS."""
    script = tmp_path / "spawned.py"
    script.write_text(SPAWNED)
    words = ["train", tiny_data, *OPTIONS, "--set", "train.workers=1", "--out", tmp_path / "spawned"]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    result = subprocess.run(
        [sys.executable, str(script), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    files = [folder / "checkpoints" / "state.safetensors" for folder in (trained, tmp_path / "spawned")]
    assert digest(files[0]) == digest(files[1])
