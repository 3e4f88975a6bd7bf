# SPDX-License-Identifier: Apache-2.0
"""The end of a training: the best weights score a split, image by image, and their predictions are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from PIL import Image

from denseg.data.dataset import SegmentationDataset
from denseg.data.loader import make_loader
from denseg.files import make_folder, write_atomic
from denseg.inference.canvas import run_on_canvas
from denseg.models.checkpoint import load_checkpoint
from denseg.training.evaluation import Evaluation
from denseg.training.setup import create_fabric

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from denseg.config import RunConfig
    from denseg.models import SegmentationModel
    from denseg.runs.folder import RunFolder
    from denseg.training.progress import Progress
    from denseg.training.setup import TrainingData
    from denseg.types import ClassTable

__all__ = ["evaluate_split"]


@torch.no_grad()
def evaluate_split(
    run: RunFolder, config: RunConfig, data: TrainingData, split: str, *, progress: Progress
) -> dict[str, Any]:
    """Score a split with the run's best weights; write ``evaluation/<split>.json`` and the predictions.

    Args:
        run: The run.
        config: Its configuration.
        data: Its data set.
        split: ``val`` or ``train``.
        progress: Where to tell how it goes.

    Returns:
        The document that was written.
    """
    checkpoint = run.checkpoint()
    fabric = create_fabric(config.device, config.train.precision)
    model = cast("SegmentationModel", load_checkpoint(checkpoint).model)
    memory_format = torch.channels_last if config.train.channels_last else torch.contiguous_format
    model.to(device=fabric.device, memory_format=memory_format)  # type: ignore[call-overload]
    evaluation = Evaluation(data.classes)
    pairs = data.val if split == "val" else data.train
    make_folder(run.prediction_path(split, "x").parent)
    loader = make_loader(
        SegmentationDataset(
            pairs,
            encoding=data.encoding,
            normalization=data.normalization,
            ignore_index=data.classes.ignore_index,
            max_pixels=data.max_pixels,
        ),
        batch_size=1,
        shuffle=False,
        workers=min(config.train.workers, len(pairs)),
    )
    for number, batch in enumerate(loader.epoch()):
        images = batch["images"].to(fabric.device, memory_format=memory_format)
        with fabric.autocast():
            logits = run_on_canvas(model, images, model.geometry).logits
        labels = logits.argmax(dim=1)[0].cpu().numpy()
        pair = pairs[int(batch["index"][0])]
        evaluation.add(pair, labels, batch["target"][0])
        write_labels(run.prediction_path(split, pair.stem), labels, data.classes)
        progress.work(f"evaluate {split}", number + 1, len(pairs))
    loader.close()
    document = evaluation.to_json(
        split,
        train_counts=data.train_counts,
        root=data.root,
        seed=config.seed,
        checkpoint=checkpoint.relative_to(run.path).as_posix(),
        model=config.model.name,
    )
    run.write_evaluation(split, document)
    return document


def write_labels(path: Path, labels: NDArray[np.integer], classes: ClassTable) -> None:
    """Write a prediction as PNG: class indices with the classes' colours as palette, 16 bits where they need them.

    Args:
        path: Where.
        labels: ``(H, W)`` in 0..K-1.
        classes: The classes.
    """
    make_folder(path.parent)
    if len(classes) > 256:
        picture = Image.fromarray(labels.astype(np.uint16))
    else:
        picture = Image.fromarray(labels.astype(np.uint8), mode="P")
        picture.putpalette([channel for color in classes.colors for channel in color])
    write_atomic(path, lambda file: picture.save(file, format="PNG"))
