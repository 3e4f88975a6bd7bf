# SPDX-License-Identifier: Apache-2.0
"""The end of a training: the best weights score a split, image by image, and their predictions are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from denseg.files import write_atomic
from denseg.inference.device import choose_device
from denseg.inference.halo import Reach, measure_reach
from denseg.inference.predictor import Predictor
from denseg.inference.tiled import model_parts
from denseg.inference.writer import write_labels
from denseg.models.checkpoint import load_checkpoint, save_checkpoint
from denseg.training.memory import peak_memory
from denseg.training.scoring import score_pairs

if TYPE_CHECKING:
    from pathlib import Path

    from denseg.config import RunConfig
    from denseg.runs.folder import RunFolder
    from denseg.training.evaluation import Evaluation
    from denseg.training.progress import Progress
    from denseg.training.setup import TrainingData

__all__ = ["evaluate_split", "store_reach", "store_temperature", "write_counts"]

KEPT = ("calibration", "classes", "commit", "encoding", "normalization", "notes", "postprocessing", "training")
"""What a checkpoint says besides the model and its reach."""


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
    if "peak_memory_bytes" not in run.record():
        run.set_status(run.status, peak_memory_bytes=peak_memory())  # of training: nothing else has run yet
    predictor = Predictor.load(run.path, device=config.device)
    predictor.max_pixels = data.max_pixels
    evaluation = score_pairs(
        predictor,
        data.val if split == "val" else data.train,
        encoding=data.encoding,
        classes=data.classes,
        on_image=lambda pair, labels: write_labels(run.prediction_path(split, pair.stem), labels, data.classes),
        progress=lambda done, total: progress.work(f"evaluate {split}", done, total),
    )
    fitted = None
    if split == "val" and predictor.metadata["calibration"] is None and evaluation.details is not None:
        fitted = evaluation.details.scale()  # from here on the document tells of the probabilities as they will be
    document = evaluation.to_json(
        split,
        train_counts=data.train_counts,
        root=data.root,
        seed=config.seed,
        checkpoint=run.checkpoint().relative_to(run.path).as_posix(),
        model=config.model.name,
    )
    run.write_evaluation(split, document)
    write_counts(run, split, evaluation)
    if fitted is not None:
        store_temperature(run.checkpoint(), document["calibration"])
    return run.evaluation(split)


def write_counts(run: RunFolder, split: str, evaluation: Evaluation) -> None:
    """Keep the counts of single images beside the scores of a split.

    Args:
        run: The run.
        split: Name of the split.
        evaluation: Its images.
    """
    arrays: dict[str, Any] = evaluation.arrays()
    write_atomic(run.counts_path(split), lambda file: np.savez_compressed(file, **arrays))


def store_temperature(path: Path, calibration: Mapping[str, Any]) -> None:
    """Write the temperature fitted on the validation split into a checkpoint: its probabilities are scaled by it.

    Args:
        path: The checkpoint.
        calibration: The ``calibration`` part of the evaluation.
    """
    model, metadata = load_checkpoint(path)
    kept = {key: metadata[key] for key in (*KEPT, "halo") if metadata[key] is not None}
    kept["calibration"] = {
        "temperature": calibration["temperature"],
        "split": "val",
        "error": calibration["expected_calibration_error"],
        "unscaled_error": calibration["unscaled_error"],
    }
    save_checkpoint(model, path, **kept)


def store_reach(run: RunFolder, device: str) -> None:
    """Measure how far a pixel reaches in the network, and write it into the checkpoints: tiles are cut by it.

    Args:
        run: The run, trained.
        device: Where to compute.
    """
    known: dict[str, Reach] = {}
    for path in (run.best_path, run.last_path):
        if not path.is_file():
            continue
        model, metadata = load_checkpoint(path)
        parts = model_parts(model)
        if parts["geometry"].margin or metadata["halo"] is not None:
            continue  # a network with a margin keeps only what it has full context for
        network = json.dumps(metadata["model"], sort_keys=True)
        if network not in known:
            known[network] = measure_reach(
                model.to(choose_device(device)),
                in_channels=parts["in_channels"],
                multiple=parts["geometry"].total_stride,
            )
        kept = {key: metadata[key] for key in KEPT if metadata[key] is not None}
        save_checkpoint(model.cpu(), path, halo=known[network].to_json(), **kept)
