# SPDX-License-Identifier: Apache-2.0
"""Pictures of any size, from TIFF to TIFF: memory is bounded by the tile, and work that was killed goes on.

Finished parts are put into a plain file in a hidden folder beside the result, with a journal of how many there are.
When all are there, labels and overlay are written as tiled, compressed pyramids; before that nothing stands under the
final names. The bytes are the same whether the work was interrupted or not.

Letters: H and W height and width in pixels.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from denseg.data.reading.windows import TiffWindows
from denseg.files import make_folder, output_error, write_json
from denseg.inference.predictor import Predictor
from denseg.inference.pyramid import TILE, write_pyramid
from denseg.inference.runtime import SeamReport
from denseg.inference.strategy import Block, Strategy
from denseg.inference.writer import display_limits, overlay_pixels, to_display
from denseg.types import ClassTable

__all__ = ["STREAM_MEMORY", "Streamed", "stream_labels"]

Array = npt.NDArray[Any]

STREAM_MEMORY = (384 << 20, 768 << 20)
"""Bytes of one forward pass, unless the options say less; the second where smaller tiles would cost too much."""
DEAR = 2.5
"""Times the pixels of the picture that tiles may compute before larger ones are worth the memory."""
FLUSH_SECONDS = 5.0
"""Between two entries of the journal: what a kill costs at most."""


@dataclass(frozen=True)
class Streamed:
    """What became of one picture.

    Attributes:
        labels: The file of labels.
        overlay: The file for the eye; ``None`` where none was asked for.
        size: Height and width.
        strategy: How it was computed.
        pixels: Pixels per class.
        seams: What overlapping windows disagreed about, in this process's part of the work.
        resumed: Share of the work that was there already, 0..1.
    """

    labels: Path
    overlay: Path | None
    size: tuple[int, int]
    strategy: Strategy
    pixels: tuple[int, ...]
    seams: SeamReport
    resumed: float


def stream_labels(
    predictor: Predictor,
    windows: TiffWindows,
    labels: Path,
    *,
    overlay: Path | None = None,
    identity: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Streamed:
    """Label a TIFF into a TIFF.

    Args:
        predictor: The model.
        windows: The picture, open.
        labels: The file to write: class indices with the classes' colours as palette.
        overlay: The file to write for the eye, compressed as JPEG.
        identity: Whatever else decides the result, for example the checkpoint's digest: unfinished work of another
            identity is not gone on with.
        progress: Called with parts done and parts in all.

    Returns:
        What became of it.

    Raises:
        OutputError: There is no room, or no permission.
    """
    strategy = _strategy(predictor, windows)
    make_folder(labels.parent)
    part = labels.with_name(f".{labels.name}.part")
    seams = SeamReport()
    facts = windows.path.stat()
    signature = {
        "format": 1,
        "picture": [windows.path.name, facts.st_size, facts.st_mtime_ns],
        "strategy": str(strategy),
        "window": predictor.tiled.options.window,
        "identity": identity,
    }
    total = predictor.tiled.count_blocks(strategy)
    kind = np.dtype(predictor.tiled.label_type)
    with _Journal(part, signature, (windows.height, windows.width), kind) as journal:
        there = journal.done
        for number, block in enumerate(predictor.blocks(windows, strategy, start=there, seams=seams), start=there + 1):
            journal.add(block, number)
            if progress is not None:
                progress(number, total)
        journal.flush()
        pixels = _count(journal, len(predictor.classes))
        if overlay is not None:
            _write_overlay(overlay, journal, windows, predictor.classes, part)
        _write_labels(labels, journal, windows, predictor.classes, part)
    shutil.rmtree(part, ignore_errors=True)
    size = (windows.height, windows.width)
    return Streamed(labels, overlay, size, strategy, pixels, seams, there / max(total, 1))


def _strategy(predictor: Predictor, windows: TiffWindows) -> Strategy:
    """Choose tiles that fit into little memory, unless that makes the work much longer."""
    for memory in STREAM_MEMORY:
        limit = min(predictor.tiled.options.memory, memory)
        strategy = predictor.strategy(windows.height, windows.width, memory=limit)
        plan = strategy.plan
        if len(plan) * plan.window[0] * plan.window[1] <= DEAR * windows.height * windows.width:
            break
    return strategy


class _Journal:
    """Labels as plain rows in a file, and how many parts of them are final."""

    def __init__(self, folder: Path, signature: dict[str, Any], size: tuple[int, int], kind: np.dtype[Any]) -> None:
        self.folder, self.size, self.kind = folder, size, kind
        self.done = 0
        self._saved = time.monotonic()
        self._state = folder / "journal.json"
        make_folder(folder)
        self._signature = signature
        rows = folder / "labels.raw"
        try:
            before = json.loads(self._state.read_text(encoding="utf-8"))
            if before["signature"] == signature and rows.stat().st_size == size[0] * size[1] * kind.itemsize:
                self.done = int(before["done"])
        except (OSError, ValueError, KeyError, TypeError):
            self.done = 0
        self._pending = self.done
        try:
            self._file: IO[bytes] = rows.open("r+b" if self.done else "w+b")
            self._file.truncate(size[0] * size[1] * kind.itemsize)
        except OSError as error:
            raise output_error(rows, error) from error

    def __enter__(self) -> _Journal:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        with contextlib.suppress(OSError):  # what stopped the work, a full disk perhaps, is said already
            self.flush()
        self._file.close()

    def add(self, block: Block, number: int) -> None:
        """Put a part into the file; it is final after the next :meth:`flush`."""
        values = np.ascontiguousarray(block.values, self.kind)
        try:
            for row, line in enumerate(values):
                self._file.seek(((block.top + row) * self.size[1] + block.left) * self.kind.itemsize)
                self._file.write(line.tobytes())
        except OSError as error:
            raise output_error(Path(self._file.name), error) from error
        self._pending = number
        if time.monotonic() - self._saved > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Bring the parts to the disk, then say so: a journal never claims what is not there."""
        if self._pending == self.done:
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise output_error(Path(self._file.name), error) from error
        write_json(self._state, {"signature": self._signature, "done": self._pending})
        self.done, self._saved = self._pending, time.monotonic()

    def bands(self) -> Iterator[tuple[int, Array]]:
        """Give the labels from top to bottom, ``TILE`` rows at a time, with the first row of each band."""
        self._file.seek(0)
        for top in range(0, self.size[0], TILE):
            rows = min(TILE, self.size[0] - top)
            self._file.seek(top * self.size[1] * self.kind.itemsize)
            data = self._file.read(rows * self.size[1] * self.kind.itemsize)
            yield top, np.frombuffer(data, self.kind).reshape(rows, self.size[1])


def _count(journal: _Journal, num_classes: int) -> tuple[int, ...]:
    total = np.zeros(num_classes, np.int64)
    for _, band in journal.bands():
        for rows in np.array_split(band, max(1, band.size >> 22)):  # bincount widens to 64 bits
            total += np.bincount(rows.ravel(), minlength=num_classes)
    return tuple(total.tolist())


def _write_labels(path: Path, journal: _Journal, windows: TiffWindows, classes: ClassTable, part: Path) -> None:
    options: dict[str, Any] = {"compression": "zlib", "predictor": False, "extratags": windows.geo_tags}
    if journal.kind == np.uint8:
        colors = np.zeros((3, 256), np.uint16)
        colors[:, : len(classes)] = np.asarray(classes.colors, np.uint16).T * 257
        options |= {"photometric": "palette", "colormap": colors}
    else:
        options |= {"photometric": "minisblack"}
    bands = (band for _, band in journal.bands())
    write_pyramid(
        path, bands, shape=journal.size, dtype=journal.kind, reduce="nearest", options=options, scratch=part / "labels"
    )


def _write_overlay(path: Path, journal: _Journal, windows: TiffWindows, classes: ClassTable, part: Path) -> None:
    limits = None
    if windows.dtype != "uint8":
        step = max(1, windows.height // 16)
        sample = [windows.read(top, 0, 1, windows.width) for top in range(0, windows.height, step)]
        limits = display_limits(np.concatenate(sample))

    def bands() -> Iterator[Array]:
        for top, labels in journal.bands():
            mixed = np.empty((*labels.shape, 3), np.uint8)
            for left in range(0, windows.width, 2048):
                part = labels[:, left : left + 2048]
                shown = to_display(windows.read(top, left, *part.shape), limits)
                mixed[:, left : left + 2048] = overlay_pixels(shown, part, classes.colors)
            yield mixed

    options = {
        "compression": "jpeg",
        "compressionargs": {"level": 85},
        "photometric": "rgb",
        "extratags": windows.geo_tags,
    }
    write_pyramid(
        path,
        bands(),
        shape=(*journal.size, 3),
        dtype=np.uint8,
        reduce="mean",
        options=options,
        scratch=part / "overlay",
    )
