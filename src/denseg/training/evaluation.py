# SPDX-License-Identifier: Apache-2.0
"""Scores of a split: counts per image, what they mean for the whole, and the document that a run keeps of them.

Shape letters: N images, K classes, C bands, H and W image height and width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from denseg.errors import ConfigError, TrainingError, nearest_name
from denseg.metrics import bootstrap_classes, bootstrap_interval, majority_baseline, scores_from_counts
from denseg.ops.confusion import confusion_counts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from denseg.data.folders.folder import Pair
    from denseg.metrics import Scores
    from denseg.training.details import Details
    from denseg.types import ClassTable

__all__ = [
    "Evaluation",
    "metric_value",
    "scores_warnings",
]

_METRICS = ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "loss")


def metric_value(name: str, scores: Scores, classes: ClassTable, loss: float | None) -> float | None:
    """Find the number that decides which checkpoint is best; larger is better.

    Args:
        name: ``miou``, ``pixel_accuracy``, ``mean_accuracy``, ``frequency_weighted_iou``, ``loss`` or ``iou/CLASS``.
        scores: Of the validation split.
        classes: The classes.
        loss: Of the validation split.

    Returns:
        The value, the loss negated; ``None`` where there is nothing to count.

    Raises:
        ConfigError: There is no such metric.
    """
    if name == "loss":
        value = None if loss is None else -loss
    elif name in _METRICS:
        value = float(getattr(scores, name))
    elif name.startswith("iou/") and name[4:] in classes.names:
        value = scores.iou[classes.names.index(name[4:])]
    else:
        known = [*_METRICS, *(f"iou/{label}" for label in classes.names)]
        near = nearest_name(name, known)
        hint = f" Did you mean {near!r}?" if near else ""
        raise ConfigError(f"train.metric: no score named {name!r}.{hint} Known: {', '.join(known)}", key="train.metric")
    return None if value is None or not math.isfinite(value) else value


def scores_warnings(counts: NDArray[np.int64], baseline: Scores, classes: ClassTable) -> list[str]:
    """Say what makes scores worth a second look.

    Args:
        counts: ``(K, K)`` of the split, rows are the truth.
        baseline: Scores of the majority answer.
        classes: The classes.

    Returns:
        One sentence each.
    """
    warnings = []
    labels, predicted = counts.sum(axis=1), counts.sum(axis=0)
    scores = scores_from_counts(counts)
    if labels.sum() == 0:
        return ["no pixel of this split carries a label: there is nothing to score"]
    if (predicted > 0).sum() == 1 and (labels > 0).sum() > 1:
        warnings.append(f"every pixel was predicted as {classes.names[int(predicted.argmax())]!r}")
    elif scores.miou <= baseline.miou:
        warnings.append(f"mIoU {scores.miou:.3f} is not above the majority baseline {baseline.miou:.3f}")
    absent = [name for name, count in zip(classes.names, labels, strict=True) if count == 0]
    if absent:
        listed = ", ".join(absent[:5]) + (", …" if len(absent) > 5 else "")
        warnings.append(f"{len(absent)} of {len(classes)} classes have no labelled pixel in this split: {listed}")
    return warnings


@dataclass
class Evaluation:
    """Counts of a split image by image; the source of ``evaluation/<split>.json``.

    Attributes:
        classes: The classes.
        pairs: The images added so far.
        counts: ``(K, K)`` int64 for each.
        ignored_pixels: Pixels without a label, over all images.
        details: What is told beyond the counts; ``None``: nothing.
    """

    classes: ClassTable
    pairs: list[Pair] = field(default_factory=list)
    counts: list[NDArray[np.int64]] = field(default_factory=list)
    ignored_pixels: int = 0
    details: Details | None = None

    def add(
        self,
        pair: Pair,
        prediction: NDArray[Any] | Tensor,
        target: NDArray[Any] | Tensor,
        probabilities: NDArray[np.float32] | None = None,
    ) -> None:
        """Count one image.

        Args:
            pair: Where it came from.
            prediction: ``(H, W)`` labels in 0..K-1, any integer dtype.
            target: ``(H, W)`` labels in 0..K-1 or ``ignore_index``, any integer dtype.
            probabilities: ``(K, H, W)``, for the details.
        """
        guess, truth = (torch.as_tensor(np.asarray(values).astype(np.int64)) for values in (prediction, target))
        counts = confusion_counts(guess, truth, len(self.classes), self.classes.ignore_index).numpy()
        self.pairs.append(pair)
        self.counts.append(counts)
        self.ignored_pixels += truth.numel() - int(counts.sum())
        if self.details is not None:
            self.details.add(guess.numpy(), truth.numpy(), probabilities)

    @property
    def total(self) -> NDArray[np.int64]:
        """``(K, K)`` over all images."""
        total: NDArray[np.int64] = np.sum(self.counts, axis=0, dtype=np.int64)
        return total

    def to_json(
        self,
        split: str,
        *,
        train_counts: Sequence[int] | None = None,
        root: Path | None = None,
        seed: int = 0,
        **facts: Any,
    ) -> dict[str, Any]:
        """Write the document.

        Args:
            split: Name of the split.
            train_counts: ``(K,)`` labelled pixels per class of the training split, for the majority baseline; the
                split's own where ``None``.
            root: Data folder, to which paths are made relative.
            seed: Of the bootstrap.
            **facts: Further JSON values, for example ``checkpoint`` and ``model``.

        Returns:
            The JSON values of ``evaluation/<split>.json``; NaN is ``None``.

        Raises:
            TrainingError: No image was added.
        """
        if not self.counts:
            raise TrainingError(f"the split {split!r} has no image to evaluate")
        total = self.total
        scores = scores_from_counts(total)
        baseline = majority_baseline(total.sum(axis=1) if train_counts is None else np.asarray(train_counts), total)
        groups = [pair.group or pair.stem for pair in self.pairs]
        low, high = bootstrap_interval(np.stack(self.counts), seed, groups=groups)
        ends = bootstrap_classes(np.stack(self.counts), seed, groups=groups)
        details = {} if self.details is None else self.details.to_json(groups, seed)
        warnings = scores_warnings(total, baseline, self.classes)
        return {
            "split": split,
            "miou": _number(scores.miou),
            "baseline_miou": _number(baseline.miou),
            "pixel_accuracy": _number(scores.pixel_accuracy),
            "mean_accuracy": _number(scores.mean_accuracy),
            "frequency_weighted_iou": _number(scores.frequency_weighted_iou),
            "interval": [_number(low), _number(high)],
            "images": len(self.pairs),
            "classes": [
                {
                    "name": name,
                    "color": list(color),
                    "iou": _number(scores.iou[index]),
                    "interval": None if np.isnan(ends[index]).any() else ends[index].tolist(),
                    "accuracy": _number(scores.accuracy[index]),
                    "pixels": scores.pixels[index],
                }
                for index, (name, color) in enumerate(zip(self.classes.names, self.classes.colors, strict=True))
            ],
            "confusion": total.tolist(),
            "per_image": [
                self._image(index, pair, counts, root)
                for index, (pair, counts) in enumerate(zip(self.pairs, self.counts, strict=True))
            ],
            **details,
            "ignored_pixels": self.ignored_pixels,
            "warnings": warnings,
            **facts,
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Give the counts of single images, for paired tests: ``evaluation/<split>.npz``.

        Returns:
            ``stems`` and ``groups`` ``(N,)``, ``right``, ``labels`` and ``predicted`` ``(N, K)`` pixels, and what the
            details hold.
        """
        counts = np.stack(self.counts)
        return {
            "stems": np.asarray([pair.stem for pair in self.pairs]),
            "groups": np.asarray([pair.group or pair.stem for pair in self.pairs]),
            "right": np.diagonal(counts, axis1=1, axis2=2).copy(),
            "labels": counts.sum(axis=2),
            "predicted": counts.sum(axis=1),
            **({} if self.details is None else self.details.arrays()),
        }

    def _image(self, index: int, pair: Pair, counts: NDArray[np.int64], root: Path | None) -> dict[str, Any]:
        scores = scores_from_counts(counts)
        return {
            "stem": pair.stem,
            "image": _relative(pair.image, root),
            "mask": _relative(pair.mask, root),
            "image_page": pair.image_page,
            "mask_page": pair.mask_page,
            "window": None if pair.window is None else list(pair.window),
            "miou": _number(scores.miou),
            "pixel_accuracy": _number(scores.pixel_accuracy),
            "entropy": None if self.details is None else self.details.entropy[index],
        }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _relative(path: Path, root: Path | None) -> str:
    if root is not None and path.resolve().is_relative_to(root.resolve()):
        return path.resolve().relative_to(root.resolve()).as_posix()
    return path.resolve().as_posix()
