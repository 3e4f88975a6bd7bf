# SPDX-License-Identifier: Apache-2.0
"""Export: a trained model as a file for other programs, compared with torch on pictures before it is handed out.

Shape letters: B batch, C bands, K classes, H and W image height and width.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from denseg import __version__
from denseg.errors import DataError, UsageError
from denseg.files import make_folder, write_atomic
from denseg.inference.bundle import runtime_source
from denseg.inference.runtime import mirror
from denseg.runs import RunFolder
from denseg.types import ExportFormat

if TYPE_CHECKING:
    from denseg.inference.predictor import Predictor

__all__ = ["ExportResult", "Parity", "export"]

Array = npt.NDArray[Any]
Scores = Callable[[Array], Array]

SUFFIXES: dict[str, str] = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}
RUNTIME = "denseg_runtime.py"
COMPARED = 8
"""Pictures that the export is compared on."""
SIDE = 512
"""Pixels of the window that is compared of each."""
LEAST_AGREEMENT = 0.999
"""Share of equal labels below which an export counts as wrong; rounding alone leaves 0.9999 and more."""


@dataclass(frozen=True)
class Parity:
    """What torch and the exported file differ in.

    Attributes:
        images: The pictures; empty where there were none and noise was taken.
        pixels: Pixels compared.
        differing: Those with another label.
        largest: Largest difference of a logit.
        spread: Standard deviation of the logits, to judge that by.
    """

    images: tuple[str, ...]
    pixels: int
    differing: int
    largest: float
    spread: float

    @property
    def agreement(self) -> float:
        """Share of equal labels, 0..1."""
        return 1 - self.differing / self.pixels

    @property
    def ok(self) -> bool:
        """Whether the labels are the same but for rounding."""
        return self.agreement >= LEAST_AGREEMENT

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return {**dataclasses.asdict(self), "images": list(self.images), "agreement": self.agreement, "ok": self.ok}


@dataclass(frozen=True)
class ExportResult:
    """An exported model.

    Attributes:
        path: The file.
        format: ``onnx``, ``openvino`` or ``pt2``.
        files: All files that belong to it.
        document: What the file says about itself.
        parity: How it differs from torch.
    """

    path: Path
    format: str
    files: tuple[Path, ...]
    document: dict[str, Any]
    parity: Parity

    def lines(self) -> list[str]:
        """Say the result to a person."""
        tiling, parity = self.document["tiling"], self.parity
        size = sum(file.stat().st_size for file in self.files) / 1e6
        halo = "no halo" if tiling["halo"] is None else f"halo {tiling['halo']} pixels"
        seen = f"{len(parity.images)} pictures" if parity.images else "noise, for there were no pictures (--images)"
        return [
            f"written   {', '.join(str(file) for file in self.files)} ({size:.1f} MB)",
            f"inside    {len(self.document['classes']['names'])} classes, normalisation, tiles "
            f"({tiling['mode']}, {halo})",
            f"parity    {100 * parity.agreement:.4f} % of {parity.pixels:,} labels agree with torch on {seen}; largest "
            f"difference of a logit {parity.largest:.2g}, their standard deviation {parity.spread:.2g}",
        ]

    def to_json(self) -> dict[str, Any]:
        """Give the result as JSON values."""
        return {
            "path": str(self.path),
            "format": self.format,
            "files": [str(file) for file in self.files],
            "parity": self.parity.to_json(),
            "document": self.document,
        }


def export(
    run: Path | str,
    *,
    format: str = "onnx",
    out: Path | str | None = None,
    images: Sequence[str | Path] = (),
) -> ExportResult:
    """Write a model for other programs.

    Args:
        run: A run folder (its best checkpoint) or a checkpoint.
        format: ``onnx`` (with ``denseg_runtime.py`` beside it), ``openvino`` or ``pt2``.
        out: The file, or a folder; ``export/`` of the run, or beside the checkpoint, if ``None``.
        images: Pictures to compare on: files, folders, patterns; the run's own validation pictures if empty.

    Returns:
        What was written, and how it differs from torch.

    Raises:
        UsageError: The format is unknown.
    """
    if format not in get_args(ExportFormat):
        raise UsageError(f"--format is {', '.join(get_args(ExportFormat))}; got {format!r}")
    from denseg.inference.graph import Graph, fixed_size, import_openvino, write_onnx, write_openvino, write_pt2
    from denseg.inference.predictor import Predictor

    if format == "openvino":
        import_openvino()  # before minutes of work
    predictor = Predictor.load(run, device="cpu")
    geometry = predictor.tiled.geometry
    path = _target(Path(run), predictor, out, SUFFIXES[format])
    side = fixed_size(geometry)
    document = describe(predictor, side)
    graph = Graph(predictor.tiled.model, predictor.normalization)
    make_folder(path.parent)
    files = [path]
    if format == "pt2":
        write_pt2(graph, path, document=document, multiple=geometry.total_stride, side=side)
    elif format == "onnx":
        write_onnx(graph, path, document=document, side=side)
        files.append(path.with_name(RUNTIME))
        write_atomic(files[-1], runtime_source())
    else:
        with tempfile.TemporaryDirectory() as folder:
            between = Path(folder) / "model.onnx"
            write_onnx(graph, between, side=side)
            write_openvino(between, path, document=document)
        files.append(path.with_suffix(".bin"))
    parity = _compare(predictor, _open(path, format), Path(run), images, side)
    return ExportResult(path, format, tuple(files), document, parity)


def describe(predictor: Predictor, side: int | None) -> dict[str, Any]:
    """Collect what an exported file says about itself.

    Args:
        predictor: The model.
        side: The only window size that the file takes; ``None`` where any goes.

    Returns:
        JSON values.
    """
    tiled, metadata = predictor.tiled, predictor.metadata
    halo, reason, mode = None, "the model keeps only what it has full context for", "overlap_tile"
    if not tiled.geometry.margin:
        reach = tiled.reach()
        halo, reason, mode = reach.halo, reach.reason, "blend" if reach.halo is None else "halo"
    return {
        "format": 1,
        "version": __version__,
        "model": metadata.get("model"),
        "input": "images, (B, C, H, W) float32: values as stored in image files, not normalised",
        "output": "logits, (B, K, H, W)",
        "resize": f"images keep their size; bottom and right are filled up to a multiple of {tiled.multiple}",
        "classes": predictor.classes.to_json(),
        "normalization": predictor.normalization.to_json(),
        "geometry": dataclasses.asdict(tiled.geometry),
        "tiling": {
            "mode": mode,
            "halo": halo,
            "reason": reason,
            "multiple": tiled.multiple,
            "side": side,
            "bytes_per_pixel": tiled.bytes_per_pixel(),
            "window": tiled.options.window,
        },
        "calibration": metadata.get("calibration"),
        "postprocessing": metadata.get("postprocessing"),
    }


def _target(run: Path, predictor: Predictor, out: Path | str | None, suffix: str) -> Path:
    checkpoint = predictor.path or run
    if out is None:
        return run / "export" / f"model{suffix}" if run.is_dir() else checkpoint.with_suffix(suffix)
    path = Path(out)
    if path.is_dir() or not path.suffix:
        return path / f"model{suffix}"
    if path.suffix != suffix:
        raise UsageError(f"the file of this format ends with {suffix}, got {path.name}")
    return path


def _open(path: Path, kind: str) -> Scores:
    """Give the exported file as a function from ``(B, C, H, W)`` stored values to logits."""
    if kind == "onnx":
        from denseg.inference.portable import OnnxScores

        return OnnxScores(path)
    if kind == "openvino":
        from denseg.inference.engines import OpenVinoScores

        return OpenVinoScores(path)
    import torch

    program = torch.export.load(path).module()

    def run(images: Array) -> Array:
        with torch.inference_mode():
            logits: Array = program(torch.from_numpy(images)).numpy()
        return logits

    return run


def _compare(predictor: Predictor, theirs: Scores, run: Path, inputs: Sequence[str | Path], side: int | None) -> Parity:
    import torch

    names: list[str] = []
    pixels = differing = 0
    largest = spread = 0.0
    for name, image in _pictures(predictor, run, inputs):
        window = _window(image, side, predictor.tiled.multiple)
        with torch.inference_mode():
            normalized = torch.from_numpy(predictor.normalization.apply(window))[None]
            ours = predictor.tiled.model(normalized).logits.numpy()
        other = theirs(np.ascontiguousarray(window.transpose(2, 0, 1)[None], np.float32))
        pixels += ours[0, 0].size
        differing += int((ours.argmax(axis=1) != other.argmax(axis=1)).sum())
        largest = max(largest, float(np.abs(ours - other).max()))
        spread = max(spread, float(ours.std()))
        names += [name] if name else []
    return Parity(tuple(names), pixels, differing, largest, spread)


def _window(image: Array, side: int | None, multiple: int) -> Array:
    """The middle of an image, mirrored where it is too small: sides that every form of the file takes."""
    sides = [side or max(multiple, min(SIDE, length) // multiple * multiple) for length in image.shape[:2]]
    rows, columns = (
        mirror((length - wanted) // 2, (length - wanted) // 2 + wanted, length)
        for length, wanted in zip(image.shape[:2], sides, strict=True)
    )
    return image[rows[:, None], columns[None, :]]


def _pictures(predictor: Predictor, run: Path, inputs: Sequence[str | Path]) -> Iterator[tuple[str, Array]]:
    """Named pictures, or the run's own, or noise with an empty name."""
    from denseg.data.reading.images import match_bands, read_image
    from denseg.workflows.inputs import find_pictures

    bands = predictor.normalization.bands
    paths = [picture.path for picture in find_pictures(inputs)] if inputs else _own_pictures(run)
    found = False
    for path in paths[:: max(1, len(paths) // COMPARED)][:COMPARED]:
        try:
            image = match_bands(read_image(path, max_pixels=predictor.max_pixels), bands, path)
        except DataError:
            if inputs:
                raise
            continue
        found = True
        yield str(path), image[:, :, None] if image.ndim == 2 else image
    if not found:
        rng = np.random.default_rng(0)
        scale = predictor.normalization.scale
        coarse = rng.random((17, 23, bands), np.float32)
        yield "", np.kron(coarse, np.ones((16, 16, 1), np.float32)) * np.float32(scale)


def _own_pictures(run: Path) -> list[Path]:
    """The validation pictures of the run, where they are still there."""
    for folder in (run, run.parent.parent):
        if RunFolder.is_run(folder):
            opened = RunFolder.open(folder)
            root = opened.config().data.path
            if root is None:
                return []
            rows = [row for row in opened.split() if row.split == "val"]
            return [path for path in (Path(root) / row.image for row in rows) if path.is_file()]
    return []
