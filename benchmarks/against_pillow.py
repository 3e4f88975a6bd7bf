# SPDX-License-Identifier: Apache-2.0
"""What the mask doctor costs beside bare decoding: the same files, decoded by Pillow in as many processes."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.harness import Case
from denseg.data.doctor.crew import process_count, work_through
from denseg.data.doctor.doctor import examine

__all__ = ["PEER", "check_cases"]

PEER = "bare Pillow decoding in as many processes"
PAIRS = 1200
SIZE = (360, 480)
GOAL = 1 / 0.8  # at least 0.8 of the files a second


def check_cases() -> list[Case]:
    """Write a folder of JPEG pictures and PNG masks, and compare ``examine`` with decoding them.

    Returns:
        One case.
    """
    root = Path(tempfile.mkdtemp(prefix="denseg-bench-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    _write(root)
    files = sorted(root.rglob("*.*"))

    os.environ["DENSEG_CACHE"] = ""  # each round reads every file: nothing is remembered of the round before

    def ours() -> None:
        examination = examine(root)
        if not examination.ok:
            raise RuntimeError("the benchmark's own folder has faults")

    def peer() -> None:
        for _ in work_through(_decode, files, lost=_lost):
            pass

    name = f"check, {PAIRS} pairs of {SIZE[1]}x{SIZE[0]}"
    return [
        Case(name, ours, peer, GOAL, f"{process_count()} processes; findings, split hygiene and fingerprint included")
    ]


def _lost(path: Path, reason: str) -> None:
    raise RuntimeError(f"{path}: {reason}")


def _decode(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def _write(root: Path) -> None:
    """Write scenes of smooth blobs with noise, about as large on disk as photographs."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir()
    for _ in range(PAIRS):
        coarse = rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(SIZE[::-1], Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(smooth + rng.normal(0, 12, (*SIZE, 3)), 0, 255).astype(np.uint8)
        name = f"scene-{rng.integers(1 << 40):x}"
        Image.fromarray(noisy).save(root / "images" / f"{name}.jpg", quality=90)
        labels = np.asarray(Image.fromarray(coarse[..., 0] // 24).resize(SIZE[::-1], Image.Resampling.NEAREST))
        Image.fromarray(labels).save(root / "masks" / f"{name}.png")
