# SPDX-License-Identifier: Apache-2.0
"""Small trainings that show what a design decision costs: the same pictures, steps and seed for every arm.

An arm is one network; ``python -m benchmarks.skips ARM`` trains one, and without ARM all of them. Results are kept by
arm in ``results/NAME.json``; the table in ``results/NAME.md`` is written anew after each.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from denseg.losses import cross_entropy_loss
from denseg.models import SegmentationModel

__all__ = ["Pictures", "camvid", "fit", "isbi", "predict", "run_arms"]

RESULTS = Path(__file__).resolve().parent / "results"
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
IGNORE = 255


class Pictures(NamedTuple):
    """Images ``(N, C, H, W)`` of about zero mean, labels ``(N, H, W)`` with 255 for none."""

    images: Tensor
    labels: Tensor


def camvid(split: str, *, count: int, shrink: int = 2) -> Pictures:
    """Read evenly spaced frames of CamVid, shrunk.

    Args:
        split: ``train`` or ``val``.
        count: How many.
        shrink: Divides both sides.

    Returns:
        The pictures, 11 classes.
    """
    paths = sorted((DATA / "camvid" / "masks" / split).glob("*.png"))
    paths = [paths[index] for index in np.linspace(0, len(paths) - 1, count).round().astype(int)]
    images, labels = [], []
    for path in paths:
        image = Image.open(DATA / "camvid" / "images" / split / f"{path.stem}.jpg").convert("RGB")
        size = image.width // shrink, image.height // shrink
        images.append(np.asarray(image.resize(size, Image.Resampling.BOX)))
        label = np.asarray(Image.open(path).resize(size, Image.Resampling.NEAREST)).astype(np.int64)
        labels.append(np.where(label == 11, IGNORE, label))
    return _pictures(images, labels)


def isbi(slices: Iterable[int]) -> Pictures:
    """Read slices of ISBI 2012: class 0 membrane, 1 cell.

    Args:
        slices: Which of the 20.

    Returns:
        The pictures.
    """
    folder = DATA / "isbi2012"
    names = [f"{index:02d}.png" for index in slices]
    images = [np.asarray(Image.open(folder / "images" / name).convert("L"))[..., None] for name in names]
    labels = [(np.asarray(Image.open(folder / "masks" / name)) > 127).astype(np.int64) for name in names]
    return _pictures(images, labels)


def fit(
    model: SegmentationModel, pictures: Pictures, *, steps: int, crop: int, batch: int = 4, rate: float = 3e-3
) -> float:
    """Train with AdamW, a one-cycle schedule, random crops and flips; everything from one seed.

    Args:
        model: Changed in place. One with a margin sees its crop and is scored inside.
        pictures: To learn from.
        steps: Of the optimiser.
        crop: Side of the crops, in pixels.
        batch: Crops per step.
        rate: Highest learning rate.

    Returns:
        The mean loss of the last tenth of the steps.
    """
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    generator = torch.Generator().manual_seed(1)
    model.train()
    losses = []
    for _ in range(steps):
        images, labels = _batch(pictures, crop, batch, generator)
        output = model(images)
        margin = model.geometry.margin
        target = labels[:, margin : crop - margin, margin : crop - margin]
        loss = cross_entropy_loss(output.logits, target, ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    model.eval()
    return float(np.mean(losses[-max(1, steps // 10) :]))


@torch.inference_mode()
def predict(
    model: SegmentationModel, pictures: Pictures, *, run: Callable[[Tensor], Tensor] | None = None
) -> npt.NDArray[np.int64]:
    """Label pictures one by one.

    Args:
        model: In evaluation mode.
        pictures: What to label.
        run: From an image ``(1, C, H, W)`` to scores; the model's logits if ``None``.

    Returns:
        ``(N, H, W)``.
    """
    function = run or (lambda image: model(image).logits)
    return np.stack([function(image[None])[0].argmax(dim=0).numpy() for image in pictures.images])


def run_arms(
    name: str, arms: Mapping[str, Callable[[], dict[str, Any]]], table: Callable[[dict[str, Any]], str]
) -> None:
    """Train the arms that the command line names, or all; keep their results and write the table.

    Args:
        name: Of the result files.
        arms: What to run, by name.
        table: Writes Markdown from the results by arm.
    """
    torch.set_num_threads(1)
    store = RESULTS / f"{name}.json"
    for arm in sys.argv[1:] or arms:
        began = time.process_time()
        result = arms[arm]()
        result["seconds"] = round(time.process_time() - began)
        results = json.loads(store.read_text(encoding="utf-8")) if store.is_file() else {}
        results[arm] = result
        store.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        ordered = {key: results[key] for key in arms if key in results}
        (RESULTS / f"{name}.md").write_text(table(ordered), encoding="utf-8")
        print(f"{arm}: {result}")


def _pictures(images: list[npt.NDArray[np.uint8]], labels: list[npt.NDArray[np.int64]]) -> Pictures:
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()  # (N, C, H, W)
    return Pictures((stacked - 110) / 60, torch.from_numpy(np.stack(labels)))


def _batch(pictures: Pictures, crop: int, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    images, labels = pictures
    count, _, height, width = images.shape
    chosen = []
    for _ in range(batch):
        index, top, left, flip = (
            int(torch.randint(high, (1,), generator=generator))
            for high in (count, max(1, height - crop + 1), max(1, width - crop + 1), 2)
        )
        image = images[index, :, top : top + crop, left : left + crop]
        label = labels[index, top : top + crop, left : left + crop]
        below, right = crop - image.shape[1], crop - image.shape[2]
        image, label = F.pad(image, (0, right, 0, below)), F.pad(label, (0, right, 0, below), value=IGNORE)
        chosen.append((image.flip(-1), label.flip(-1)) if flip else (image, label))
    return torch.stack([image for image, _ in chosen]), torch.stack([label for _, label in chosen])
