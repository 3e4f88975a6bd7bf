# SPDX-License-Identifier: Apache-2.0
"""Large pictures: memory does not grow with them, and a killed command goes on and writes the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile
import torch

from denseg.cli import main
from denseg.data.samples.normalization import Normalization
from denseg.models import create_model, save_checkpoint

MEASURE = """
import sys
from pathlib import Path

import torch
from torch import nn

from denseg.data.samples.normalization import Normalization
from denseg.data.reading.windows import TiffWindows
from denseg.inference.predictor import Predictor
from denseg.inference.stream import stream_labels
from denseg.types import ClassTable, Geometry, SegmentationOutput


class Blur(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 9, padding=4, groups=1)
        self.geometry, self.num_classes, self.in_channels = Geometry(), 2, 3

    def forward(self, images):
        scores = self.conv(images)
        return SegmentationOutput(scores, (), scores, images)


def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


torch.set_num_threads(1)
predictor = Predictor(Blur().eval(), classes=ClassTable.numbered(2), normalization=Normalization.imagenet())
predictor.strategy(100_000, 100_000)
before = peak()
source = Path(sys.argv[1])
with TiffWindows(source) as windows:
    labels, overlay = source.with_suffix(".labels.tif"), source.with_suffix(".overlay.tif")
    done = stream_labels(predictor, windows, labels, overlay=overlay)
assert done.strategy.exact and len(done.strategy.plan) > 1, done.strategy
print(before, peak())
"""


def write_picture(path, height, width):
    rng = np.random.default_rng(0)
    tile = np.kron(rng.integers(0, 256, (16, 16, 3)), np.ones((32, 32, 1))).astype(np.uint8)
    count = -(-height // 512) * -(-width // 512)
    with tifffile.TiffWriter(path) as file:
        file.write(
            (tile for _ in range(count)), shape=(height, width, 3), dtype=np.uint8, tile=(512, 512),
            compression="zlib", photometric="rgb", maxworkers=1,
        )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_memory_does_not_grow_with_the_picture(tmp_path):
    peaks = []
    for height in (6000, 12_000):
        path = tmp_path / f"{height}.tif"
        write_picture(path, height, 6000)
        arguments = [sys.executable, "-c", MEASURE, str(path)]
        done = subprocess.run(
            arguments, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, done.stderr
        before, peak = map(float, done.stdout.split())
        assert peak - before < 700  # MiB, the windows and the forward pass; the picture alone has up to 206
        peaks.append(peak)
    assert peaks[1] / peaks[0] < 1.1


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    root = tmp_path_factory.mktemp("large")
    torch.manual_seed(0)
    model = create_model("unet", num_classes=3, width=0.0625).eval()
    halo = {"pixels": 112, "reason": "one pixel reaches 107 pixels far"}
    save_checkpoint(model, root / "model.safetensors", normalization=Normalization.imagenet().to_json(), halo=halo)
    image = np.random.default_rng(0).integers(0, 256, (900, 1000, 3), dtype=np.uint8)
    keys = (1, 1, 0, 1, 1024, 0, 1, 2)  # where it lies: so that it is read in windows
    tifffile.imwrite(
        root / "scan.tif", image, photometric="rgb", tile=(256, 256), extratags=[(34735, "H", 8, keys, True)]
    )
    return root


def command(work, out):
    return ["predict", str(work / "model.safetensors"), str(work / "scan.tif"), "--out", str(out), "--tile", "304",
            "--device", "cpu"]  # fmt: skip


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.tif")}


def test_killed_and_started_again_it_writes_the_same_bytes(work, tmp_path, monkeypatch):
    from denseg.inference import stream

    monkeypatch.setattr(stream, "FLUSH_SECONDS", 0.0)
    assert main(command(work, tmp_path / "whole")) == 0
    expected = contents(tmp_path / "whole")
    assert {str(path) for path in expected} == {"scan.tif", "overlay/scan.tif"}
    out = tmp_path / "out"
    often = (
        "import sys, denseg.cli, denseg.inference.stream as stream; stream.FLUSH_SECONDS = 0.0; "
        "sys.exit(denseg.cli.main(sys.argv[1:]))"
    )
    arguments = [sys.executable, "-c", often, *command(work, out)]
    journal = out / ".scan.tif.part" / "journal.json"
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        before = journal.read_text() if journal.is_file() else ""
        process = subprocess.Popen(
            arguments, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        while not journal.is_file() or journal.read_text() == before:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode == (3 if number == signal.SIGTERM else -number)
        assert not list(out.glob("*.tif"))  # nothing under the final name before it is whole
    assert main(command(work, out)) == 0
    assert contents(out) == expected
    assert sorted(path.name for path in out.iterdir()) == ["overlay", "predictions.json", "scan.tif"]
