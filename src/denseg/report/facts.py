# SPDX-License-Identifier: Apache-2.0
"""Everything the page tells, read from a run folder once. A part that the run does not have yet is empty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from denseg.config import RunConfig
from denseg.report.history import History, read_history
from denseg.report.pixels import distinct
from denseg.runs import RunFolder
from denseg.types import ClassTable

__all__ = ["RunFacts", "read_facts"]

_MODEL_NAMES = {  # as their papers write them; any other name is shown as it is
    "fcn": "FCN",
    "fcn32s": "FCN-32s",
    "fcn16s": "FCN-16s",
    "fcn8s": "FCN-8s",
    "unet": "U-Net",
    "deconvnet": "DeconvNet",
    "deeplab_v1": "DeepLab v1",
    "deeplab_v2": "DeepLab v2",
    "deeplab_v3": "DeepLab v3",
    "deeplab_v3_plus": "DeepLab v3+",
    "parsenet": "ParseNet",
    "pspnet": "PSPNet",
    "danet": "DANet",
    "ccnet": "CCNet",
    "emanet": "EMANet",
    "acnet": "ACNet",
    "hdnet": "HDNet",
}
_PLAIN_NAMES = {"data", "dataset", "images", "run"}
_HEADLINE_ORDER = ("test", "val")  # test images decided nothing during training, so their score comes first


@dataclass(frozen=True)
class RunFacts:
    """A run, as read from its folder.

    Attributes:
        run: The folder.
        record: ``run.json``: status, when it was made, what it said last.
        config: The resolved configuration.
        classes: The classes.
        images: How many images each split has.
        history: Training, one entry per validation.
        environment: Versions, machine, command.
        check: The mask doctor's findings, ``None`` where none were stored.
        evaluations: Scores by split, the headline's first.
    """

    run: RunFolder
    record: Mapping[str, Any]
    config: RunConfig
    classes: ClassTable
    images: Mapping[str, int]
    history: History
    environment: Mapping[str, Any]
    check: Mapping[str, Any] | None
    evaluations: Mapping[str, Mapping[str, Any]]

    @property
    def headline(self) -> Mapping[str, Any] | None:
        """The evaluation that the page is about: test, else val, else any; ``None`` before the first one."""
        return next(iter(self.evaluations.values()), None)

    @property
    def device(self) -> str:
        """What it ran on, as far as it is known."""
        asked = self.config.device if self.config.device != "auto" else ""
        return str(self.environment.get("device") or self.record.get("device") or asked)

    @property
    def name(self) -> str:
        """The run's name: its folder's, with the one above where that says nothing."""
        path = self.run.path.resolve()
        return f"{path.parent.name}/{path.name}" if path.name in _PLAIN_NAMES else path.name

    @property
    def data_name(self) -> str:
        """The data set's name: its folder's, or the one above where that says nothing."""
        path = Path(self.config.data.path or "")
        return path.parent.name if path.name in _PLAIN_NAMES else path.name

    @property
    def model(self) -> str:
        """Model and backbone in words."""
        model = self.config.model
        name = _MODEL_NAMES.get(model.name, model.name)
        return f"{name} with {model.backbone}" if model.backbone else name


def read_facts(run: RunFolder) -> RunFacts:
    """Read a run folder.

    Args:
        run: The folder.

    Returns:
        What it holds.
    """
    splits = run.evaluations()
    ordered = [split for split in _HEADLINE_ORDER if split in splits] + [s for s in splits if s not in _HEADLINE_ORDER]
    record, history = run.record(), read_history(run.metrics())
    best = (record.get("best") or {}).get("epoch")  # by the run's own metric, which need not be mIoU
    if best in history.epochs:
        history = replace(history, best=history.epochs.index(best))
    return RunFacts(
        run=run,
        record=record,
        config=run.config(),
        classes=run.classes(),
        images=dict(Counter(row.split for row in run.split())),
        history=history,
        environment=run.environment(),
        check=run.check(),
        evaluations={split: _settled(run.evaluation(split)) for split in ordered},
    )


def _settled(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what may be missing, drop an interval without ends, and give the classes colours that differ."""
    interval = evaluation.get("interval")
    colors = distinct([entry["color"] for entry in evaluation["classes"]])
    return {
        "baseline_miou": None,
        "ignored_pixels": None,
        "per_image": [],
        "warnings": [],
        **evaluation,
        "interval": interval if interval and None not in interval else None,
        "classes": [
            {**entry, "color": list(color)} for entry, color in zip(evaluation["classes"], colors, strict=True)
        ],
    }
