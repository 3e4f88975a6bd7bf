# SPDX-License-Identifier: Apache-2.0
"""The run folder: every file of a training by name, versioned; the only place that knows the names.

::

    runs/x/
      run.json                     format, status, when; tells a run folder from any other folder
      config.yaml                  the resolved configuration; replays the run
      classes.yaml                 names, colours, ignore index
      split.csv                    stem, image, mask, split, sha256
      check.json                   what the mask doctor found
      metrics.csv                  one row per epoch
      environment.json             versions, machine, command
      checkpoints/                 state, last, best (.safetensors)
      evaluation/<split>.json      scores; <split>.npz counts of single images; <split>/<stem>.png predictions
      events…                      TensorBoard
      samples.webp                 augmented samples with their masks
      report.html

Every file is written whole or not at all. Importing this module imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from denseg import __version__
from denseg.config import RunConfig, dump_config, load_config
from denseg.errors import ConfigError, DensegError, RunError
from denseg.files import make_folder, write_atomic, write_json
from denseg.runs.lock import LOCK_NAME
from denseg.runs.tables import MetricRow, SplitRow, format_rows, metric_columns, parse_metrics, parse_split
from denseg.types import ClassTable

__all__ = ["RUN_FORMAT", "RunFolder", "RunStatus"]

RUN_FORMAT = 1
RunStatus = Literal["starting", "running", "interrupted", "failed", "finished"]


class RunFolder:
    """One run, by name.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path | str) -> None:
        """Name a run folder without looking at the disk; use :meth:`open` or :meth:`create`.

        Args:
            path: The folder.
        """
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    def __fspath__(self) -> str:
        return str(self.path)

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Open a run that is there.

        Args:
            path: The folder.

        Returns:
            The run.

        Raises:
            RunError: There is no such folder, it is not a run, or a newer version of denseg wrote it.
        """
        run = cls(path)
        if not run.path.exists():
            raise RunError(f"no run at {run.path}: there is no such folder", path=run.path)
        if not run.path.is_dir():
            raise RunError(f"no run at {run.path}: it is a file; give the run's folder", path=run.path)
        if not run._file("run.json").is_file():
            raise RunError(f"no run at {run.path}: the folder holds no run.json", path=run.path)
        written = run.record().get("format")
        if not isinstance(written, int) or written > RUN_FORMAT:
            raise RunError(
                f"the run {run.path} has format {written}, denseg {__version__} reads to {RUN_FORMAT}; update denseg",
                path=run.path,
            )
        return run

    @classmethod
    def is_run(cls, path: Path | str) -> bool:
        """Tell whether a path is a run folder of any version.

        Args:
            path: Any path.

        Returns:
            Whether it holds ``run.json``.
        """
        return (Path(path) / "run.json").is_file()

    @classmethod
    def check_free(cls, path: Path | str) -> None:
        """Refuse a folder in which a new run would lie over something else.

        Args:
            path: Where the run would be created.

        Raises:
            RunError: The folder holds a run with checkpoints, or files that are no run.
        """
        run = cls(path)
        if run.path.is_file():
            raise RunError(
                f"cannot create the run {run.path}: a file of that name is there; choose another --out", path=run.path
            )
        if not run.path.is_dir() or all(_is_leftover(entry.name) for entry in run.path.iterdir()):
            return
        if not cls.is_run(run.path):
            raise RunError(f"{run.path} is not empty and holds no run; choose another --out", path=run.path)
        cls.open(run.path)
        if run.status == "finished":
            raise RunError(f"{run.path} holds a finished run; choose another --out", path=run.path)
        if run.has_checkpoint:
            raise RunError(
                f"{run.path} holds a run that is not finished; go on with --resume, or choose another --out",
                path=run.path,
            )

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        config: RunConfig,
        classes: ClassTable,
        split: Sequence[SplitRow],
        environment: Mapping[str, Any],
        check: Mapping[str, Any] | None = None,
    ) -> RunFolder:
        """Create a run folder with everything that is known before the first step.

        Args:
            path: The folder; made with those above it. A run there that never reached a checkpoint is replaced.
            config: The resolved configuration.
            classes: The classes.
            split: The manifest.
            environment: What ``describe_environment`` gave.
            check: The mask doctor's findings as JSON values.

        Returns:
            The run, with status ``starting``; refusals as :meth:`check_free`.
        """
        cls.check_free(path)
        run = cls(path)
        make_folder(run.path)
        run.remove_leftovers()
        run._write_record({"format": RUN_FORMAT, "denseg": __version__, "status": "starting", "created": _now()})
        make_folder(run._file("checkpoints"))
        write_atomic(run._file("config.yaml"), dump_config(config))
        write_atomic(run._file("classes.yaml"), yaml.safe_dump(classes.to_json(), sort_keys=False, allow_unicode=True))
        write_atomic(run._file("split.csv"), format_rows(SplitRow._fields, (row._asdict() for row in split)))
        write_json(run._file("environment.json"), dict(environment))
        if check is not None:
            write_json(run._file("check.json"), dict(check))
        run.write_metrics([])
        return run

    def record(self) -> dict[str, Any]:
        """Read ``run.json``: ``format``, ``status``, ``created``, ``updated`` and what ``set_status`` kept."""
        value = self._read_json("run.json")
        if not isinstance(value, dict):
            raise RunError(f"the run {self.path} is damaged: run.json holds no object", path=self.path)
        return value

    @property
    def status(self) -> RunStatus:
        """How far the run got; a ``running`` run whose process is gone was killed."""
        status: RunStatus = self.record().get("status", "starting")
        return status

    def set_status(self, status: RunStatus, **facts: Any) -> None:
        """Record how far the run got.

        Args:
            status: The new status.
            **facts: JSON values kept beside it, for example ``message``, ``epoch``, ``epochs``, ``best``.
        """
        self._write_record(self.record() | {"status": status, **facts})

    def remove_leftovers(self) -> None:
        """Remove the temporary files of a process that was killed; call while holding the run's lock."""
        for path in self.path.rglob(".*.tmp"):
            path.unlink(missing_ok=True)

    def config(self) -> RunConfig:
        """Read the resolved configuration."""
        text = self._read_text("config.yaml")
        try:
            values = yaml.safe_load(text)
            return load_config(base=values if isinstance(values, dict) else {})
        except (yaml.YAMLError, ConfigError) as error:
            raise RunError(
                f"the run {self.path} is damaged: config.yaml: {_one_line(error)}", path=self.path
            ) from error

    def classes(self) -> ClassTable:
        """Read the classes."""
        text = self._read_text("classes.yaml")
        try:
            return ClassTable.from_json(yaml.safe_load(text))
        except (yaml.YAMLError, DensegError, KeyError, TypeError, ValueError, IndexError) as error:
            raise RunError(
                f"the run {self.path} is damaged: classes.yaml: {_one_line(error)}", path=self.path
            ) from error

    def split(self, name: str | None = None) -> list[SplitRow]:
        """Read the split manifest.

        Args:
            name: Only the rows of this split; ``None`` for all.

        Returns:
            The rows, in the order written.

        Raises:
            RunError: The manifest is missing or damaged.
        """
        text = self._read_text("split.csv")
        try:
            rows = parse_split(text)
        except RunError as error:
            raise RunError(f"the run {self.path} is damaged: split.csv: {_one_line(error)}", path=self.path) from error
        return rows if name is None else [row for row in rows if row.split == name]

    def environment(self) -> dict[str, Any]:
        """Read the environment."""
        value = self._read_json("environment.json")
        return dict(value)

    def check(self) -> dict[str, Any] | None:
        """Read the mask doctor's findings; ``None`` where none were stored."""
        return dict(self._read_json("check.json")) if self._file("check.json").is_file() else None

    def metrics(self) -> list[MetricRow]:
        """Read ``metrics.csv``: one mapping per epoch, ``None`` for an empty cell."""
        return parse_metrics(self._read_text("metrics.csv"))

    def write_metrics(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Write ``metrics.csv`` anew.

        Args:
            rows: All epochs so far, keys as in :func:`~denseg.runs.tables.metric_columns`.
        """
        write_atomic(self._file("metrics.csv"), format_rows(metric_columns(self.classes().names), rows))

    @property
    def state_path(self) -> Path:
        """All that ``--resume`` reads."""
        return self._file("checkpoints/state.safetensors")

    @property
    def previous_state_path(self) -> Path:
        """The state before the current one; used when the current one is damaged."""
        return self._file("checkpoints/state.previous.safetensors")

    @property
    def last_path(self) -> Path:
        """Weights after the last epoch."""
        return self._file("checkpoints/last.safetensors")

    @property
    def best_path(self) -> Path:
        """Weights of the best validation score."""
        return self._file("checkpoints/best.safetensors")

    @property
    def failed_batch_path(self) -> Path:
        """The batch that made the loss NaN or infinite, kept for a look."""
        return self._file("checkpoints/failed_batch.safetensors")

    @property
    def samples_path(self) -> Path:
        """Augmented training samples with their masks, drawn before the first step."""
        return self._file("samples.webp")

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is anything to resume from or to predict with."""
        return any(
            path.is_file() for path in (self.state_path, self.previous_state_path, self.last_path, self.best_path)
        )

    def checkpoint(self) -> Path:
        """Find the weights to predict with: best, else last.

        Returns:
            The file.

        Raises:
            RunError: The run has no checkpoint yet.
        """
        for path in (self.best_path, self.last_path):
            if path.is_file():
                return path
        raise RunError(f"the run {self.path} has no checkpoint yet; train it first (--resume goes on)", path=self.path)

    def evaluation_path(self, split: str) -> Path:
        """Name the scores of a split: ``evaluation/<split>.json``."""
        return self._file(f"evaluation/{split}.json")

    def prediction_path(self, split: str, stem: str) -> Path:
        """Name the predicted labels of one image: ``evaluation/<split>/<stem>.png``."""
        return self._file(f"evaluation/{split}/{stem}.png")

    def evaluations(self) -> tuple[str, ...]:
        """List the splits that were evaluated, sorted."""
        folder = self._file("evaluation")
        return tuple(sorted(path.stem for path in folder.glob("*.json"))) if folder.is_dir() else ()

    def evaluation(self, split: str) -> dict[str, Any]:
        """Read the scores of a split.

        Args:
            split: ``val``, ``test``, ….

        Returns:
            The JSON values.

        Raises:
            RunError: The split was not evaluated.
        """
        if not self.evaluation_path(split).is_file():
            known = ", ".join(self.evaluations()) or "none"
            raise RunError(f"the run {self.path} has no evaluation of {split!r}; evaluated: {known}", path=self.path)
        return dict(self._read_json(f"evaluation/{split}.json"))

    def write_evaluation(self, split: str, value: Mapping[str, Any]) -> None:
        """Write the scores of a split.

        Args:
            split: ``val``, ``test``, ….
            value: JSON values, see ``training.evaluation``.
        """
        make_folder(self.evaluation_path(split).parent)
        write_json(self.evaluation_path(split), {"format": RUN_FORMAT, **value})

    def counts_path(self, split: str) -> Path:
        """Name the counts of single images that paired tests rest on: ``evaluation/<split>.npz``."""
        return self._file(f"evaluation/{split}.npz")

    @property
    def report_path(self) -> Path:
        """The report."""
        return self._file("report.html")

    def _file(self, name: str) -> Path:
        return self.path / name

    def _write_record(self, record: Mapping[str, Any]) -> None:
        write_json(self._file("run.json"), {**record, "updated": _now()})

    def _read_text(self, name: str) -> str:
        try:
            return self._file(name).read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise RunError(f"the run {self.path} is incomplete: {name} is missing", path=self.path) from error
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"the run {self.path} is damaged: {name}: {_one_line(error)}", path=self.path) from error

    def _read_json(self, name: str) -> Any:
        try:
            return json.loads(self._read_text(name))
        except json.JSONDecodeError as error:
            raise RunError(f"the run {self.path} is damaged: {name}: {_one_line(error)}", path=self.path) from error


def _is_leftover(name: str) -> bool:
    """Whether a process that was killed before it had a run folder left a file of this name."""
    return name == LOCK_NAME or (name.startswith(".") and name.endswith(".tmp"))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
