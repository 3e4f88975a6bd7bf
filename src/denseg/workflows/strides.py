# SPDX-License-Identifier: Apache-2.0
"""One trained network at several output strides: what accuracy costs in time and memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denseg.workflows.evaluate import EvaluateResult, evaluate

if TYPE_CHECKING:
    from denseg.inference.measure import Speed

__all__ = ["StrideRow", "StrideTable", "compare_strides"]

SIDE = 512
"""Pixels of the square image that is timed."""


@dataclass(frozen=True)
class StrideRow:
    """What one output stride gives.

    Attributes:
        output_stride: Of the backbone.
        trained: Whether the network was trained at it.
        scores: The evaluation.
        speed: Time and memory of one image of ``SIDE`` x ``SIDE``.
    """

    output_stride: int
    trained: bool
    scores: EvaluateResult
    speed: Speed


@dataclass(frozen=True)
class StrideTable:
    """Accuracy, time and memory by output stride.

    Attributes:
        rows: One per stride, in the order asked for.
    """

    rows: tuple[StrideRow, ...]

    def lines(self) -> list[str]:
        """Say the table to a person."""
        first = self.rows[0].scores.document
        lines = [
            f"{first['split']}: {first['images']} images; time and memory for one image of {SIDE}x{SIDE} on "
            f"{self.rows[0].speed.device}",
            "",
            "output stride   mIoU  interval         pixel accuracy      time    memory",
        ]
        for row in self.rows:
            scores = row.scores.document
            low, high = (_shown(value) for value in scores["interval"])
            lines.append(
                f"{row.output_stride:>13}  {_shown(scores['miou']):>5}  {low:>5} to {high:<5}   "
                f"{_shown(scores['pixel_accuracy']):>14}  {1000 * row.speed.seconds:>5.0f} ms  "
                f"{row.speed.memory / 2**20:>5.0f} MiB{'  (trained)' if row.trained else ''}"
            )
        notes = dict.fromkeys(note for row in self.rows for note in row.scores.notes)
        return lines + [f"note: {note}" for note in notes]

    def to_json(self) -> dict[str, Any]:
        """Give the table as JSON values."""
        return {
            "strides": [
                {
                    "output_stride": row.output_stride,
                    "trained": row.trained,
                    "speed": row.speed.to_json(),
                    **row.scores.to_json(),
                }
                for row in self.rows
            ]
        }


def compare_strides(
    run: Path | str,
    data: Path | str,
    strides: Sequence[int],
    *,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> StrideTable:
    """Score a model at several output strides; its weights stay the same.

    Args:
        run: A run folder (its best checkpoint) or a checkpoint.
        data: The folder of images and masks.
        strides: Output strides of the backbone.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        progress: Called with images done and images in all, of all strides.
        **options: Further arguments of ``evaluate``.

    Returns:
        The table.
    """
    from denseg.inference.measure import measure_speed
    from denseg.inference.predictor import Predictor
    from denseg.models.checkpoint import checkpoint_path
    from denseg.models.tensor_file import read_tensors

    arguments = read_tensors(checkpoint_path(run))[1].get("model", {}).get("arguments", {})
    rows = []
    for index, stride in enumerate(strides):

        def step(done: int, total: int, index: int = index) -> None:
            if progress is not None:
                progress(index * total + done, len(strides) * total)

        scores = evaluate(run, data, output_stride=stride, device=device, progress=step, **options)
        predictor = Predictor.load(run, device=device, output_stride=stride)
        speed = measure_speed(predictor.tiled.model, (SIDE, SIDE))
        rows.append(StrideRow(stride, stride == arguments.get("output_stride"), scores, speed))
    return StrideTable(tuple(rows))


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
