# SPDX-License-Identifier: Apache-2.0
"""Predict: files, folders and globs become index pictures and overlays; resumable, one bad file stops nothing.

Reading and writing overlap with computing. Every file is written whole or not at all, the labels last: where they are,
the picture is done.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from denseg.errors import DensegError, InterruptedRunError, OutputError
from denseg.files import make_folder, sha256_of, write_json
from denseg.training.interrupt import catch_signals
from denseg.workflows.inputs import Picture, find_pictures

if TYPE_CHECKING:
    from denseg.inference.predictor import Predictor
    from denseg.inference.strategy import TileOptions

__all__ = ["PredictResult", "Prediction", "predict"]

RECORD = "predictions.json"
AHEAD = 2
"""Pictures read ahead and pictures waiting to be written, each: what bounds the memory."""


@dataclass(frozen=True)
class Prediction:
    """One labelled picture.

    Attributes:
        image: The file.
        labels: Where its labels are.
        overlay: Where its overlay is.
        size: Height and width.
        strategy: How it was computed, for a person.
        exact: Whether the labels are those of the whole image.
        pixels: Pixels per class.
    """

    image: Path
    labels: Path
    overlay: Path
    size: tuple[int, int]
    strategy: str
    exact: bool
    pixels: tuple[int, ...]

    def to_json(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Give it as JSON values."""
        return {
            "image": str(self.image),
            "labels": str(self.labels),
            "overlay": str(self.overlay),
            "size": list(self.size),
            "exact": self.exact,
            "strategy": self.strategy,
            "pixels": dict(zip(class_names, self.pixels, strict=True)),
        }


@dataclass
class PredictResult:
    """What became of all pictures.

    Attributes:
        out: The folder.
        checkpoint: The model's file.
        class_names: Of the model.
        predictions: Those labelled now, in order.
        skipped: Those that were there already.
        failed: Pictures that could not be read, each with the reason.
        notes: What is worth saying, once.
    """

    out: Path
    checkpoint: Path
    class_names: tuple[str, ...]
    predictions: list[Prediction] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every picture was labelled."""
        return not self.failed

    def lines(self) -> list[str]:
        """Say the result to a person; the failures are :meth:`problems`."""
        lines = [f"{len(self.predictions)} labelled into {self.out}"]
        if self.skipped:
            lines[0] += f", {len(self.skipped)} were there already (--overwrite labels them again)"
        if self.failed:
            lines[0] += f", {len(self.failed)} failed"
        lines += [f"note      {note}" for note in self.notes]
        total = np.sum([prediction.pixels for prediction in self.predictions], axis=0) if self.predictions else None
        if total is not None and total.sum():
            width = max(len(name) for name in self.class_names)
            for name, count in zip(self.class_names, total, strict=True):
                lines.append(f"{name:<{width}}  {100 * count / total.sum():6.2f} % of the pixels")
        return lines

    def problems(self) -> list[str]:
        """Say each failure in one line."""
        return [message if str(path) in message else f"{path}: {message}" for path, message in self.failed]

    def to_json(self) -> dict[str, Any]:
        """Give the result as JSON values."""
        return {
            "ok": self.ok,
            "out": str(self.out),
            "checkpoint": str(self.checkpoint),
            "predictions": [prediction.to_json(self.class_names) for prediction in self.predictions],
            "skipped": [str(path) for path in self.skipped],
            "failed": [{"image": str(path), "message": message} for path, message in self.failed],
            "notes": self.notes,
        }


def predict(  # noqa: PLR0913 - the options of the command
    run: Path | str,
    inputs: Sequence[str | Path],
    *,
    out: Path | str,
    tile: int | None = None,
    overlap: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    options: TileOptions | None = None,
    overwrite: bool = False,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> PredictResult:
    """Label pictures of any size into a folder.

    Under ``torchrun`` each process takes its share of the pictures.

    Args:
        run: A run folder (its best checkpoint) or a checkpoint.
        inputs: Files, folders and patterns.
        out: The folder; ``NAME.png`` and ``overlay/NAME.png`` for each picture.
        tile: Side of the windows in pixels; chosen from the memory if ``None``.
        overlap: Pixels that two windows share; chosen from the model if ``None``.
        scales: Sizes at which each picture is seen; several are averaged.
        flip: See it mirrored left to right, too.
        options: All options of tiles.
        overwrite: Label again what the folder holds already.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        progress: Called with pictures done and pictures in all.

    Returns:
        What became of every picture.

    Raises:
        InterruptedRunError: Ctrl-C or SIGTERM; what was written is whole, and the same command goes on.
    """
    out = Path(out)
    pictures = find_pictures(inputs, leave_out=out)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    mine = pictures[rank::world]
    from denseg.inference.predictor import Predictor

    with catch_signals():
        predictor = Predictor.load(
            run, device=device, tile=tile, overlap=overlap, options=options, scales=scales, flip=flip
        )
        checkpoint = predictor.path or Path(run)
        result = PredictResult(out, checkpoint, predictor.classes.names)
        _claim(out, predictor, {"scales": list(scales), "flip": flip}, overwrite=overwrite)
        todo = [picture for picture in mine if overwrite or not _labels_path(out, picture).is_file()]
        result.skipped = [picture.path for picture in mine if picture not in set(todo)]
        try:
            _Line(predictor, result, progress).run(todo)
        except KeyboardInterrupt as error:
            done = len(result.skipped) + len(result.predictions)
            raise InterruptedRunError(
                f"stopped after {done} of {len(mine)} pictures; the same command goes on from there"
            ) from error
    return result


class _Line:
    """Read, compute, write: three pictures at a time, one in each."""

    def __init__(
        self, predictor: Predictor, result: PredictResult, progress: Callable[[int, int], None] | None
    ) -> None:
        self.predictor = predictor
        self.result = result
        self.progress = progress or (lambda done, total: None)

    def run(self, pictures: Sequence[Picture]) -> None:
        writing: deque[Future[Prediction]] = deque()
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            try:
                for number, (picture, read) in enumerate(_ahead(reader, self._read, pictures)):
                    self.progress(number, len(pictures))
                    try:
                        image = read.result()
                        strategy = self.predictor.strategy(*image.shape[:2])
                        labels = self.predictor.predict(image, strategy=strategy, name=picture.path)
                    except (DensegError, MemoryError, RuntimeError) as error:
                        self.result.failed.append((picture.path, _reason(error)))
                        continue
                    if not strategy.exact:
                        self._note(f"tiles are an approximation for large pictures: {strategy.reason}")
                    writing.append(writer.submit(self._write, picture, image, labels, (str(strategy), strategy.exact)))
                    while len(writing) > AHEAD:
                        self.result.predictions.append(writing.popleft().result())
                while writing:
                    self.result.predictions.append(writing.popleft().result())
            except BaseException:
                reader.shutdown(wait=False, cancel_futures=True)
                writer.shutdown(wait=True, cancel_futures=True)
                self.result.predictions += [job.result() for job in writing if _succeeded(job)]
                raise
        self.progress(len(pictures), len(pictures))

    def _read(self, picture: Picture) -> npt.NDArray[Any]:
        from denseg.data.images import read_image

        return read_image(picture.path, max_pixels=self.predictor.max_pixels)

    def _write(
        self, picture: Picture, image: npt.NDArray[Any], labels: npt.NDArray[Any], strategy: tuple[str, bool]
    ) -> Prediction:
        from denseg.inference.writer import write_labels, write_overlay

        classes = self.predictor.classes
        target = _labels_path(self.result.out, picture)
        overlay = self.result.out / "overlay" / f"{picture.name}.png"
        write_overlay(overlay, image, labels, classes)
        write_labels(target, labels, classes)
        pixels = np.bincount(labels.ravel(), minlength=len(classes))
        size = (labels.shape[0], labels.shape[1])
        return Prediction(picture.path, target, overlay, size, *strategy, tuple(pixels.tolist()))

    def _note(self, text: str) -> None:
        if text not in self.result.notes:
            self.result.notes.append(text)


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[Picture], npt.NDArray[Any]], pictures: Sequence[Picture]
) -> Iterator[tuple[Picture, Future[npt.NDArray[Any]]]]:
    """Start reading a few pictures before they are needed."""
    waiting: deque[tuple[Picture, Future[npt.NDArray[Any]]]] = deque()
    for picture in pictures:
        waiting.append((picture, pool.submit(work, picture)))
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def _claim(out: Path, predictor: Predictor, options: Mapping[str, Any], *, overwrite: bool) -> None:
    """Mark the folder with the model that labels into it; refuse to mix the results of two."""
    make_folder(out)
    path = predictor.path
    mark = {
        "format": 1,
        "checkpoint": None if path is None else str(path.resolve()),
        "sha256": None if path is None else sha256_of(path),
        "classes": predictor.classes.to_json(),
        **options,
    }
    record = out / RECORD
    if record.is_file() and not overwrite:
        try:
            before = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = None
        kept = [key for key in mark if key != "checkpoint"]
        if isinstance(before, dict) and any(before.get(key) != mark[key] for key in kept):
            raise OutputError(
                f"{out} holds the results of another model or other options ({before.get('checkpoint')}); "
                "choose another --out, or label all again with --overwrite",
                path=out,
            )
        if before is not None:
            return
    if int(os.environ.get("RANK", "0")) == 0:
        write_json(record, mark)


def _labels_path(out: Path, picture: Picture) -> Path:
    return out / f"{picture.name}.png"


def _reason(error: Exception) -> str:
    """Say why one picture failed; what is no fault of the picture is raised again."""
    if isinstance(error, OutputError):
        raise error
    if isinstance(error, DensegError):
        return " ".join(str(error).splitlines())
    if isinstance(error, MemoryError) or "alloc" in str(error) or "out of memory" in str(error):
        return "not enough memory for this picture; give a smaller --tile"
    raise error


def _succeeded(job: Future[Prediction]) -> bool:
    return job.done() and not job.cancelled() and job.exception() is None
