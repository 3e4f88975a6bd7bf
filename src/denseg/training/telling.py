# SPDX-License-Identifier: Apache-2.0
"""What is told of an epoch: its row in ``metrics.csv``, its lines in the log, its numbers in TensorBoard."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from denseg.metrics import Scores
    from denseg.runs.tables import MetricRow
    from denseg.training.setup import StagePlan
    from denseg.training.state import Position
    from denseg.types import ClassTable

__all__ = ["class_line", "epoch_line", "event_values", "metric_row"]

SHOWN_CLASSES = 12
"""Of more classes the worst ones are shown."""


def metric_row(
    position: Position,
    plan: StagePlan,
    classes: ClassTable,
    *,
    learning_rate: float,
    loss: float,
    val_loss: float | None,
    scores: Scores | None,
) -> MetricRow:
    """Make the row of the epoch that ends.

    Args:
        position: Where the run is; the epoch under way is the one that ends.
        plan: The stage.
        classes: The classes.
        learning_rate: The largest of the last step.
        loss: Mean over the steps of the epoch.
        val_loss: Of the validation split; ``None`` where there was no validation or no label.
        scores: Of the validation split; ``None`` where there was no validation.

    Returns:
        The row.
    """
    seconds = position.epoch_seconds
    row: MetricRow = {
        "stage": plan.name,
        "epoch": position.stage_epoch + 1,
        "step": position.step,
        "images": position.epoch_images,
        "seconds": round(seconds, 3),
        "images_per_second": round(position.epoch_images / seconds, 3) if seconds > 0 else None,
        "learning_rate": learning_rate,
        "loss": loss,
        "val_loss": val_loss,
        "val_miou": None if scores is None else _finite(scores.miou),
        "val_pixel_accuracy": None if scores is None else _finite(scores.pixel_accuracy),
        "val_mean_accuracy": None if scores is None else _finite(scores.mean_accuracy),
    }
    ious = [None] * len(classes) if scores is None else [_finite(value) for value in scores.iou]
    for name, iou in zip(classes.names, ious, strict=True):
        row[f"iou/{name}"] = iou
    return row


def epoch_line(row: MetricRow, position: Position, epochs: int) -> str:
    """Say an epoch in one line.

    Args:
        row: What ``metric_row`` gave.
        position: Where the run is, with the best score.
        epochs: Of the stage.

    Returns:
        The line.
    """

    def shown(key: str, form: str) -> str:
        value = row[key]
        return form % value if isinstance(value, (int, float)) else "-"

    best = "" if position.best is None else f" (best {abs(position.best):.4f} at epoch {position.best_epoch})"
    return (
        f"epoch {row['epoch']}/{epochs}  loss {shown('loss', '%.4f')}  val loss {shown('val_loss', '%.4f')}  "
        f"mIoU {shown('val_miou', '%.4f')}{best}  {shown('images_per_second', '%.1f')} images/s"
    )


def class_line(row: MetricRow, classes: ClassTable) -> str:
    """Say the IoU of the classes in one line, of many classes the worst.

    Args:
        row: What ``metric_row`` gave.
        classes: The classes.

    Returns:
        The line; empty where nothing was validated.
    """
    ious = [(name, row[f"iou/{name}"]) for name in classes.names]
    known = [(name, float(value)) for name, value in ious if isinstance(value, (int, float))]
    if not known:
        return ""
    if len(ious) <= SHOWN_CLASSES:
        listed = "  ".join(f"{name} {value:.2f}" if isinstance(value, float) else f"{name} -" for name, value in ious)
        return f"  IoU  {listed}"
    worst = sorted(known, key=lambda entry: entry[1])[:SHOWN_CLASSES]
    listed = "  ".join(f"{name} {value:.2f}" for name, value in worst)
    return f"  IoU, lowest of {len(known)}  {listed}"


def event_values(row: MetricRow) -> dict[str, float | None]:
    """Give an epoch's numbers by their TensorBoard tags.

    Args:
        row: What ``metric_row`` gave.

    Returns:
        ``train/…``, ``val/…`` and ``iou/…``.
    """
    names = {
        "loss": "train/loss",
        "learning_rate": "train/learning_rate",
        "images_per_second": "train/images_per_second",
    }
    values: dict[str, float | None] = {}
    for key, value in row.items():
        tag = names.get(key) or (f"val/{key[4:]}" if key.startswith("val_") else key if key.startswith("iou/") else "")
        if tag:
            values[tag] = float(value) if isinstance(value, (int, float)) else None
    return values


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
