# SPDX-License-Identifier: Apache-2.0
"""Predict: files, folders and globs become index pictures and overlays; resumable, one bad file stops nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from denseg.errors import InterruptedRunError, OutputError, UnknownNameError, UsageError
from denseg.files import make_folder, sha256_of, write_json
from denseg.training.interrupt import stoppable
from denseg.workflows.inputs import find_pictures

if TYPE_CHECKING:
    from denseg.inference.predictor import Predictor
    from denseg.inference.strategy import TileOptions
    from denseg.workflows.labelling import Extras, Prediction

__all__ = ["PredictResult", "predict"]

RECORD = "predictions.json"


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
    turns: bool = False,
    options: TileOptions | None = None,
    extras: Extras | None = None,
    postprocessing: Mapping[str, Any] | None = None,
    regions: Path | str | None = None,
    max_pixels: int | None = None,
    overwrite: bool = False,
    device: str = "auto",
    progress: Callable[[float, int], None] | None = None,
) -> PredictResult:
    """Label pictures of any size into a folder.

    Under ``torchrun`` each process takes its share of the pictures.

    Args:
        run: A run folder (its best checkpoint) or a checkpoint.
        inputs: Files, folders and patterns.
        out: The folder; ``NAME.png`` and ``overlay/NAME.png`` for each picture, ``.tif`` for large ones and those that
            say where on Earth they lie, ``NAME-PAGE`` for pages of a TIFF stack.
        tile: Side of the windows in pixels; chosen from the memory if ``None``.
        overlap: Pixels that two windows share; chosen from the model if ``None``.
        scales: Sizes at which each picture is seen; several are averaged.
        flip: See it mirrored left to right, too.
        turns: See it at all four quarter turns.
        options: All options of tiles.
        extras: Engine and precision; probabilities, variances and instances in folders of their own beside the labels.
        postprocessing: Fields of ``PostProcessing`` to lay over what the checkpoint says.
        regions: Measure every region into this ``.csv`` or ``.geojson``.
        max_pixels: Larger pictures are refused before they are decoded, apart from TIFFs, which are read in windows.
        overwrite: Label again what the folder holds already.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        progress: Called with pictures done, parts of a large one included, and pictures in all.

    Returns:
        What became of every picture.

    Raises:
        InterruptedRunError: Ctrl-C or SIGTERM; what was written is whole, and the same command goes on.
    """
    out = Path(out)
    files = find_pictures(inputs, leave_out=out)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    from denseg.inference.predictor import Predictor
    from denseg.inference.regions import write_regions
    from denseg.workflows.labelling import Extras, Labelling, expand_pages, is_done

    with stoppable("stopped; the same command goes on from there"):
        pictures, failed = expand_pages(files[rank::world])
        predictor = Predictor.load(
            run, device=device, tile=tile, overlap=overlap, options=options, scales=scales, flip=flip, turns=turns
        )
        predictor.max_pixels = max_pixels or predictor.max_pixels
        predictor.postprocessing = replace(predictor.postprocessing, **(postprocessing or {}))
        extras = replace(extras or Extras(), regions=regions is not None)
        _check(predictor, extras, regions)
        views: dict[str, Any] = {"scales": list(scales), "flip": flip}
        views |= {"turns": True} if turns else {}
        views |= {"precision": extras.precision} if extras.precision != "float32" else {}
        views |= {"postprocessing": predictor.postprocessing.to_json()} if predictor.postprocessing else {}
        digest = _claim(out, predictor, views, overwrite=overwrite)
        todo = [picture for picture in pictures if overwrite or not is_done(out, picture)]
        skipped = [picture.path for picture in pictures if not overwrite and is_done(out, picture)]
        work = Labelling(predictor, out, extras=extras, identity=f"{digest} {json.dumps(views)}", progress=progress)
        try:
            work.run(todo)
            waiting = set(todo)
            for picture in pictures:
                if picture not in waiting:
                    work.recall(picture)
        except KeyboardInterrupt as error:
            done = len(skipped) + len(work.predictions)
            raise InterruptedRunError(
                f"stopped after {done} of {len(pictures)} pictures; the same command goes on from there"
            ) from error
    if regions is not None:
        target = Path(regions)
        found = [(name, *work.regions[name]) for name in (p.name for p in pictures) if name in work.regions]
        write_regions(
            target if world == 1 else target.with_stem(f"{target.stem}-{rank}"), found, predictor.classes.names
        )
        work.notes.append(f"{sum(len(rows) for _, rows, _ in found)} regions in {regions}")
    if predictor.postprocessing:
        work.notes.append(f"post-processing: {predictor.postprocessing}")
    checkpoint = predictor.path or Path(run)
    names = predictor.classes.names
    return PredictResult(out, checkpoint, names, work.predictions, skipped, failed + work.failed, work.notes)


def _check(predictor: Predictor, extras: Extras, regions: Path | str | None) -> None:
    """Refuse before hours of work what would fail after them."""
    from denseg.inference.engines import check_engine
    from denseg.inference.uncertainty import check_dropout

    check_engine(predictor, extras.engine, extras.precision)
    names = predictor.classes.names
    for name in (extras.instances, *predictor.postprocessing.thresholds):
        if name is not None and name not in names:
            raise UnknownNameError("class", name, names)
    if extras.dropout:
        check_dropout(predictor.tiled.model, extras.dropout)
    if extras.variance and predictor.tiled.views is None:
        raise UsageError("a variance needs several views of an image: give --scales, --flip or --turns")
    if regions is not None and Path(regions).suffix.lower() not in {".csv", ".geojson"}:
        raise UsageError(f"--regions writes .csv or .geojson, got {Path(regions).name}")


def _claim(out: Path, predictor: Predictor, options: Mapping[str, Any], *, overwrite: bool) -> str:
    """Mark the folder with the model that labels into it; refuse to mix the results of two. Give the model's digest."""
    make_folder(out)
    path = predictor.path
    mark = {
        "format": 1,
        "checkpoint": None if path is None else str(path.resolve()),
        "sha256": "" if path is None else sha256_of(path),
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
            return str(mark["sha256"])
    if int(os.environ.get("RANK", "0")) == 0:
        write_json(record, mark)
    return str(mark["sha256"])
