# SPDX-License-Identifier: Apache-2.0
"""How good a network gets in 5, 10 and 20 minutes: two loops as people write them, and ``denseg train --budget``.

``python -m benchmarks.camvid_curve DATA`` runs each in a process of its own, seed by seed, and writes
``results/camvid_curve.{json,md,svg}``. DATA is CamVid as ``denseg check`` reads it (``images/train``, ``masks/train``,
…), labels 0 to 10 and 11 for void. All start from random weights.

* ``plain``: segmentation_models_pytorch's U-Net on ResNet-34 as its users run it: Adam 1e-4, batches of 8 whole images
  padded to 384x480, contiguous memory, float32, no schedule.
* ``tuned``: the same network by someone who knows the machine: channels_last, AdamW with a poly schedule over the
  budget, random crops of 160x224 from pictures at half size, ENet's class weights.
* ``auto``: ``denseg train DATA --budget N``, nothing else said.

With ``--clock cpu`` a minute is a minute of every processor together: for machines that do something else meanwhile.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

__all__ = ["main"]

LOOPS = ("plain", "tuned", "auto")
CLASSES = 11
PADDED = (384, 480)
CROP = (160, 224)
BATCH = 8
RESULTS = Path(__file__).with_name("results")
MEAN = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
STD = torch.tensor([58.395, 57.12, 57.375])[:, None, None]


def main() -> int:
    """Run what the command line names.

    Returns:
        0 where ``auto`` is ahead of both loops at every budget, else 1.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, nargs="+", default=[5, 10, 20])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=list(LOOPS))
    parser.add_argument("--split", default="val", help="scored with the weights that training ended with")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--one", nargs=3, metavar=("LOOP", "MINUTES", "SEED"), help="one training; JSON to stdout")
    options = parser.parse_args()
    if options.one:
        loop, minutes, seed = options.one[0], float(options.one[1]), int(options.one[2])
        sys.stdout.write(json.dumps(run_one(loop, options.data, minutes, seed, options.split, options.clock)) + "\n")
        return 0
    rows = []
    for minutes in options.minutes:
        for seed in range(options.seeds):
            for loop in options.loops:
                rows.append(in_own_process(options, loop, minutes, seed))
                sys.stderr.write(f"{rows[-1]}\n")
    for path in write(rows, options):
        sys.stderr.write(f"{path}\n")
    return 0 if ahead(rows) else 1


def in_own_process(options: argparse.Namespace, loop: str, minutes: float, seed: int) -> dict[str, Any]:
    """Train once in a fresh process."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.camvid_curve",
        str(options.data),
        "--one",
        loop,
        str(minutes),
        str(seed),
    ]
    command += ["--split", options.split, "--clock", options.clock]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - this file
    row: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return row


def run_one(loop: str, data: Path, minutes: float, seed: int, split: str, clock: str) -> dict[str, Any]:
    """Train one loop and score it.

    Args:
        loop: ``plain``, ``tuned`` or ``auto``.
        data: CamVid.
        minutes: The budget.
        seed: Of weights and samples.
        split: What is scored.
        clock: ``wall`` or ``cpu``; a minute of ``cpu`` is a minute of every processor.

    Returns:
        JSON values: what was run, its mIoU, steps and time.
    """
    seconds = minutes * 60 * (processors() if clock == "cpu" else 1)
    began = used(clock)
    if loop == "auto":
        found = train_auto(data, seconds, seed, split, clock)
    else:
        found = train_loop(loop, data, seconds, seed, split, clock)
    spent = (used(clock) - began) / (processors() if clock == "cpu" else 1) / 60
    return {"loop": loop, "minutes": minutes, "seed": seed, **found, "spent_minutes": round(spent, 2)}


def train_auto(data: Path, seconds: float, seed: int, split: str, clock: str) -> dict[str, Any]:
    """Run ``denseg train`` and score the weights it ended with, not those chosen on the validation split."""
    from denseg.workflows.evaluate import evaluate
    from denseg.workflows.train import train

    budget = f"{seconds:g}s" + (" cpu" if clock == "cpu" else "")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        result = train(data, budget=budget, settings=[f"seed={seed}"], out=out, progress=True)
        record, config = result.run.record(), result.run.config()
        last = evaluate(result.run.last_path, data, split=split).to_json()
        best = evaluate(result.run.best_path, data, split=split).to_json()
        network = config.model.model_dump(mode="json", exclude_defaults=True)
        return {
            "miou": last["miou"],
            "miou_best": best["miou"],
            "steps": result.run.metrics()[-1]["step"],
            "epochs": record["epoch"],
            "network": network,
        }


def train_loop(loop: str, data: Path, seconds: float, seed: int, split: str, clock: str) -> dict[str, Any]:
    """Run one of the two loops until its time is over, and score it."""
    import segmentation_models_pytorch as smp

    torch.manual_seed(seed)
    tuned = loop == "tuned"
    files = pairs(data, "train")
    model = smp.Unet("resnet34", encoder_weights=None, classes=CLASSES).train()
    weight = None
    if tuned:
        model = model.to(memory_format=torch.channels_last)
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
        weight = enet_weights(files)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    began, steps = used(clock), 0
    for images, target in batches(files, tuned, np.random.default_rng(seed)):
        share = (used(clock) - began) / seconds
        if share >= 1:
            break
        if tuned:
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * math.pow(1 - share, 0.9)
            images = images.contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(images), target, weight=weight, ignore_index=CLASSES)
        loss.backward()
        optimizer.step()
        steps += 1
    return {
        "miou": score(model.eval(), pairs(data, split), tuned),
        "steps": steps,
        "epochs": steps * BATCH / len(files),
    }


def pairs(data: Path, split: str) -> list[tuple[Path, Path]]:
    """List images and masks of a split."""
    images = sorted((data / "images" / split).iterdir())
    return [(image, data / "masks" / split / f"{image.stem}.png") for image in images]


def read(image: Path, mask: Path, half: bool) -> tuple[Tensor, Tensor]:
    """Read a pair, ``(3, H, W)`` normalised and ``(H, W)``; at half size where asked."""
    with Image.open(image) as opened:
        picture = opened.convert("RGB")
    with Image.open(mask) as opened:
        labels = opened.convert("L") if opened.mode not in {"L", "P"} else opened.copy()
    if half:
        size = (picture.width // 2, picture.height // 2)
        picture, labels = picture.resize(size, Image.Resampling.BOX), labels.resize(size, Image.Resampling.NEAREST)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    target = torch.from_numpy(np.array(labels)).long()
    return (pixels - MEAN) / STD, torch.where(target < CLASSES, target, CLASSES)


def batches(
    files: list[tuple[Path, Path]], tuned: bool, generator: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give batches without end, each epoch in another order."""
    while True:
        order = [files[place] for place in generator.permutation(len(files))]
        for first in range(0, len(order) - BATCH + 1, BATCH):
            samples = [
                prepare(*read(image, mask, tuned), tuned, generator) for image, mask in order[first : first + BATCH]
            ]
            yield torch.stack([image for image, _ in samples]), torch.stack([target for _, target in samples])


def prepare(image: Tensor, target: Tensor, tuned: bool, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Pad to whole blocks, or cut a random crop and flip it."""
    height, width = target.shape
    if not tuned:
        margin = (0, PADDED[1] - width, 0, PADDED[0] - height)
        return F.pad(image, margin), F.pad(target, margin, value=CLASSES)
    top, left = (int(generator.integers(0, side - crop + 1)) for side, crop in zip((height, width), CROP, strict=True))
    image = image[:, top : top + CROP[0], left : left + CROP[1]]
    target = target[top : top + CROP[0], left : left + CROP[1]]
    return (image.flip(2), target.flip(1)) if generator.random() < 0.5 else (image, target)


def enet_weights(files: list[tuple[Path, Path]]) -> Tensor:
    """1 / ln(1.02 + share), A. Paszke et al., "ENet", 2016."""
    counts = torch.zeros(CLASSES + 1)
    for image, mask in files:
        counts += torch.bincount(read(image, mask, True)[1].flatten(), minlength=CLASSES + 1)
    return 1 / torch.log(1.02 + counts[:CLASSES] / counts[:CLASSES].sum())


@torch.no_grad()
def score(model: Callable[[Tensor], Tensor], files: list[tuple[Path, Path]], half: bool) -> float:
    """Give the mIoU of a split: one confusion matrix, classes with a pixel of either."""
    counts = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
    for image, mask in files:
        pixels, _ = read(image, mask, half)
        _, target = read(image, mask, False)
        height, width = pixels.shape[1:]
        whole = F.pad(pixels, (0, -width % 32, 0, -height % 32))[None]
        logits = model(whole)[..., :height, :width]
        size = (target.shape[0], target.shape[1])
        labels = F.interpolate(logits, size=size, mode="bilinear", align_corners=False).argmax(dim=1)[0]
        valid = target < CLASSES
        places = target[valid] * CLASSES + labels[valid]
        counts += torch.bincount(places, minlength=CLASSES**2).view(CLASSES, CLASSES)
    hit = counts.diagonal().double()
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    return float((hit[union > 0] / union[union > 0]).mean())


def used(clock: str) -> float:
    """Read a clock: of the wall, or the time of this process and the children it has waited for."""
    return time.monotonic() if clock == "wall" else sum(os.times()[:4])


def processors() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ahead(rows: list[dict[str, Any]]) -> bool:
    """Whether ``auto`` has the highest mean at every budget."""
    table = means(rows)
    return all("auto" not in here or max(here, key=lambda loop: here[loop][0]) == "auto" for here in table.values())


def means(rows: list[dict[str, Any]]) -> dict[float, dict[str, tuple[float, float]]]:
    """Mean and spread over the seeds, by budget and loop."""
    table: dict[float, dict[str, tuple[float, float]]] = {}
    for row in rows:
        here = [other["miou"] for other in rows if (other["minutes"], other["loop"]) == (row["minutes"], row["loop"])]
        spread = statistics.stdev(here) if len(here) > 1 else 0.0
        table.setdefault(row["minutes"], {})[row["loop"]] = (statistics.mean(here), spread)
    return table


def write(rows: list[dict[str, Any]], options: argparse.Namespace) -> list[Path]:
    """Write the numbers, the table and the curve."""
    RESULTS.mkdir(exist_ok=True)
    table = means(rows)
    facts = {
        "split": options.split,
        "clock": options.clock,
        "processors": processors(),
        "torch": torch.__version__,
        "rows": rows,
    }
    numbers = RESULTS / "camvid_curve.json"
    numbers.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    lines = [
        "# CamVid in minutes",
        "",
        f"mIoU on `{options.split}`, mean and standard deviation over {options.seeds} seeds, from random weights, on "
        f"{processors()} processors ({options.clock} clock).",
        "",
        "| minutes | " + " | ".join(options.loops) + " |",
        "| --- | " + " | ".join("---" for _ in options.loops) + " |",
    ]
    for minutes, here in table.items():
        cells = [f"{here[loop][0]:.3f} ± {here[loop][1]:.3f}" if loop in here else "-" for loop in options.loops]
        lines.append(f"| {minutes:g} | " + " | ".join(cells) + " |")
    page = RESULTS / "camvid_curve.md"
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [numbers, page, draw(table, options)]


def draw(table: dict[float, dict[str, tuple[float, float]]], options: argparse.Namespace) -> Path:
    """Draw the curves."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for loop in options.loops:
        points = [(minutes, *here[loop]) for minutes, here in sorted(table.items()) if loop in here]
        axes.errorbar(*zip(*points, strict=True), marker="o", capsize=3, label=loop)
    axes.set_xlabel(f"minutes ({options.clock})")
    axes.set_ylabel(f"mIoU, {options.split}")
    axes.set_ylim(bottom=0)
    axes.legend()
    path = RESULTS / "camvid_curve.svg"
    figure.savefig(path)
    plt.close(figure)
    return path


if __name__ == "__main__":
    sys.exit(main())
