# SPDX-License-Identifier: Apache-2.0
"""What a training writes into its run folder, and in which order, so that a death between two files loses nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from denseg.models.checkpoint import save_checkpoint
from denseg.runs.environment import source_commit
from denseg.training.events import EventLog
from denseg.training.guards import check_free_space
from denseg.training.pictures import write_sheet
from denseg.training.state import Position, save_state

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from denseg.config import RunConfig
    from denseg.runs.folder import RunFolder
    from denseg.training.setup import TrainingData

__all__ = ["Keeper"]


class Keeper:
    """Writes state, checkpoints, table and events of one run; on other processes than the first it does nothing.

    Attributes:
        run: The run folder.
        active: Whether this process writes.
    """

    def __init__(self, run: RunFolder, config: RunConfig, data: TrainingData, *, active: bool = True) -> None:
        """Keep what every file needs.

        Args:
            run: The run folder.
            config: The run's configuration.
            data: The data set.
            active: Whether this process writes.
        """
        self.run = run
        self.active = active
        self._config = config
        self._data = data
        self._events: EventLog | None = None
        self._fingerprint: dict[str, Any] | None = None

    def check_space(self, model: nn.Module, states: int) -> None:
        """Refuse to start where the files would not fit.

        Args:
            model: The network.
            states: Numbers that the optimiser keeps per weight.
        """
        weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
        # Two states and the next one being written, and the same of the checkpoints that predict.
        if self.active:
            check_free_space(self.run.path, 3 * weights * (1 + states) + 3 * weights + 10_000_000)

    def save(self, tensors: Mapping[str, Mapping[str, Tensor]], position: Position) -> None:
        """Write the state: what a resumed run reads.

        Args:
            tensors: ``model``, ``optimizer`` and ``loss``, each by name.
            position: Where the run is.
        """
        if self.active:
            save_state(self.run, tensors, position, self._data.to_json())

    def derive(self, model: nn.Module, position: Position, *, epochs: int) -> None:
        """Write what follows from a state at the end of an epoch: ``last``, ``best``, ``metrics.csv``, ``run.json``.

        Doing it twice changes nothing, so a resumed run does it again in case the process died in between.

        Args:
            model: The network, with the state's weights.
            position: Where the run is.
            epochs: Epochs that the run will take, for ``run.json``.
        """
        if not self.active:
            return
        self.run.write_metrics(position.history)
        self._checkpoint(model, self.run.last_path, position)
        if position.best_epoch == position.epoch:
            self._checkpoint(model, self.run.best_path, position)
        best = None if position.best is None else {"score": abs(position.best), "epoch": position.best_epoch}
        self.run.set_status("running", epoch=position.epoch, epochs=epochs, best=best, metric=self._config.train.metric)

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Write numbers to TensorBoard.

        Args:
            step: Optimiser steps over the whole run.
            values: By tag.
        """
        if not self.active:
            return
        if self._events is None:
            self._events = EventLog(self.run.path, step=step)
        self._events.scalars(step, values)
        self._events.flush()

    def pictures(self, step: int, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        """Write pictures to TensorBoard, after ``scalars`` of the same step.

        Args:
            step: Optimiser steps over the whole run.
            pictures: ``(H, W, 3)`` by tag.
        """
        if self._events is not None:
            for tag, pixels in pictures.items():
                self._events.image(step, tag, pixels)
            self._events.flush()

    def sheet(self, pixels: NDArray[np.uint8]) -> None:
        """Write the sheet of augmented samples.

        Args:
            pixels: ``(H, W, 3)``.
        """
        if self.active:
            write_sheet(self.run.samples_path, pixels)

    def close(self) -> None:
        """Close the event file."""
        if self._events is not None:
            self._events.close()

    def _seen(self) -> dict[str, Any]:
        """What the pictures were like: by it the predictor tells of pictures that are not."""
        if self._fingerprint is None:
            self._fingerprint = dict((self.run.check() or {}).get("fingerprint") or {})
        return {key: self._fingerprint[key] for key in ("images", "intensity") if key in self._fingerprint}

    def _checkpoint(self, model: nn.Module, path: Path, position: Position) -> None:
        row = position.history[-1]
        training: dict[str, Any] = {
            "epoch": position.epoch,
            "stage": row["stage"],
            "step": row["step"],
            "seed": self._config.seed,
            "class_pixels": list(self._data.train_counts),
            "scores": {key: value for key, value in row.items() if key.startswith("val_")},
            **self._seen(),
        }
        save_checkpoint(
            model,
            path,
            classes=self._data.classes,
            normalization=self._data.normalization.to_json(),
            encoding=self._data.encoding.to_json(),
            commit=source_commit() or None,
            training=training,
        )
