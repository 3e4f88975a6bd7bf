# SPDX-License-Identifier: Apache-2.0
"""Prediction that is stopped, killed, or out of disk: nothing torn, one line, and the same command goes on."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from denseg.cli import main
from denseg.data.samples.normalization import Normalization
from denseg.models import create_model, save_checkpoint

COUNT = 24


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    root = tmp_path_factory.mktemp("faults")
    torch.manual_seed(0)
    model = create_model("unet", num_classes=3, width=0.125).eval()
    save_checkpoint(model, root / "model.safetensors", normalization=Normalization.imagenet().to_json())
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        pixels = rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{index:02d}.png", compress_level=1)
    return root


@pytest.fixture(scope="module")
def expected(work):
    """The bytes that an undisturbed run writes."""
    arguments = ["predict", str(work / "model.safetensors"), str(work / "images"), "--out", str(work / "whole")]
    assert main([*arguments, "--device", "cpu"]) == 0
    return contents(work / "whole")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")}


def command(work, out):
    arguments = ["predict", str(work / "model.safetensors"), str(work / "images"), "--out", str(out)]
    return [sys.executable, "-m", "denseg", *arguments, "--device", "cpu"]


def start(work, out, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(work, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
    )


def wait_for_results(process, out, count):
    while len(list(out.glob("*.png"))) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_is_one_line_and_resumable(work, expected, tmp_path, capsys, number):
    out = tmp_path / "out"
    process = start(work, out)
    wait_for_results(process, out, 3)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 3, error
    done = contents(out)
    labelled = len(list(out.glob("*.png")))
    assert 3 <= labelled < COUNT
    assert error == f"error: stopped after {labelled} of {COUNT} pictures; the same command goes on from there\n"
    assert all(expected[name] == data for name, data in done.items())  # what is there is whole
    assert not list(out.rglob("*.tmp"))
    assert main(command(work, out)[3:]) == 0
    left = COUNT - labelled
    line = f"{left} labelled into {out}, {labelled} were there already (--overwrite labels them again)"
    assert capsys.readouterr().out.splitlines()[0] == line
    assert contents(out) == expected


def test_a_kill_leaves_whole_files_only(work, expected, tmp_path):
    out = tmp_path / "out"
    for count in (1, 12):
        process = start(work, out)
        wait_for_results(process, out, count)
        process.kill()
        process.communicate(timeout=60)
        assert all(expected[name] == data for name, data in contents(out).items())
    assert main(command(work, out)[3:]) == 0
    assert contents(out) == expected


def test_a_file_that_does_not_fit_stops_with_one_line(work, tmp_path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    out = tmp_path / "out"
    process = start(work, out, preexec_fn=limit)
    output, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output == ""
    assert error == (
        f"error: cannot write {out / 'overlay' / '00.png'}: the file would be larger than the limit set for this "
        "process or file system\n"
    )
    assert not contents(out)
    assert not list(out.rglob("*.tmp"))


def test_output_that_cannot_be_a_folder(work, tmp_path, capsys):
    (tmp_path / "out").touch()
    assert main(command(work, tmp_path / "out")[3:]) == 1
    message = f"error: cannot write {tmp_path / 'out'}: a file of that name is in the way of a folder\n"
    assert capsys.readouterr().err == message


def test_a_damaged_checkpoint_is_refused(work, tmp_path, capsys):
    data = bytearray((work / "model.safetensors").read_bytes())
    data[len(data) // 2] ^= 4
    (tmp_path / "model.safetensors").write_bytes(data)
    assert (
        main(["predict", str(tmp_path / "model.safetensors"), str(work / "images"), "--out", str(tmp_path / "o")]) == 1
    )
    error = capsys.readouterr().err
    assert "damaged" in error
    assert error.count("\n") == 1
