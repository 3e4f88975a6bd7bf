# SPDX-License-Identifier: Apache-2.0
"""The curve's own loops: what they read, cut and score."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks import camvid_curve


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """Eight pictures of 360x480 whose red channel is the class."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for folder in ("images", "masks"):
            (tmp_path / folder / split).mkdir(parents=True)
        for place in range(8):
            labels = generator.integers(0, 12, (9, 12)).repeat(40, axis=0).repeat(40, axis=1).astype(np.uint8)
            image = np.stack([labels * 20] * 3, axis=2)
            Image.fromarray(image).save(tmp_path / "images" / split / f"{place}.png")
            Image.fromarray(labels).save(tmp_path / "masks" / split / f"{place}.png")
    return tmp_path


@pytest.mark.parametrize(("tuned", "size"), [(False, (384, 480)), (True, (160, 224))])
def test_batches_hold_what_the_loop_says(street: Path, tuned: bool, size: tuple[int, int]) -> None:
    files = camvid_curve.pairs(street, "train")
    images, target = next(camvid_curve.batches(files, tuned, np.random.default_rng(0)))
    assert images.shape == (8, 3, *size)
    assert target.shape == (8, *size)
    red = images[:, 0] * camvid_curve.STD[0] + camvid_curve.MEAN[0]
    inside = (target < 11) & (red > 1)
    assert torch.allclose(red[inside], target[inside] * 20.0, atol=1e-3), "image and mask were cut alike"


@pytest.mark.parametrize("half", [False, True])
def test_the_truth_scores_one(street: Path, half: bool) -> None:
    def perfect(images: Tensor) -> Tensor:
        red = images[:, 0] * camvid_curve.STD[0] + camvid_curve.MEAN[0]
        return -(red[:, None] - torch.arange(11).view(1, 11, 1, 1) * 20.0).abs()

    assert camvid_curve.score(perfect, camvid_curve.pairs(street, "val"), half) == pytest.approx(1.0, abs=0.03)


def test_a_constant_answer_scores_its_share(street: Path) -> None:
    def road(images: Tensor) -> Tensor:
        scores = torch.zeros(images.shape[0], 11, *images.shape[2:])
        scores[:, 3] = 1
        return scores

    files = camvid_curve.pairs(street, "val")
    labels = np.concatenate([np.asarray(Image.open(mask)).ravel() for _, mask in files])
    share = (labels == 3).sum() / (labels < 11).sum()
    assert camvid_curve.score(road, files, False) == pytest.approx(share / 11)


def test_table_and_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"loop": loop, "minutes": minutes, "seed": seed, "miou": base + seed * 0.02}
        for minutes in (5.0, 10.0)
        for loop, base in (("plain", 0.2), ("auto", 0.4))
        for seed in range(2)
    ]
    assert camvid_curve.ahead(rows)
    rows[0]["miou"] = 0.9
    assert not camvid_curve.ahead(rows)
    monkeypatch.setattr(camvid_curve, "RESULTS", tmp_path)
    options = argparse.Namespace(split="val", clock="wall", seeds=2, loops=["plain", "auto"])
    paths = camvid_curve.write(rows, options)
    assert [path.name for path in paths] == ["camvid_curve.json", "camvid_curve.md", "camvid_curve.svg"]
    assert "| 10 | 0.210 ± 0.014 | 0.410 ± 0.014 |" in paths[1].read_text(encoding="utf-8")
