# SPDX-License-Identifier: Apache-2.0
"""Label many pictures: reading and writing overlap with computing, and one bad file stops nothing.

Every file is written whole or not at all, the labels last: where they are, the picture is done. Pictures that are too
large for the memory, and those that say where on Earth they lie, go from TIFF to TIFF in windows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from denseg.data.doctor.remember import cache_folder
from denseg.data.reading.parts import read_stack
from denseg.data.reading.windows import TiffWindows, count_pages, is_tiff
from denseg.errors import DensegError, ImageError, OutputError
from denseg.inference.engines import EngineChoice, choose_engine
from denseg.inference.guard import InputGuard
from denseg.inference.pixel_size import read_pixel_size
from denseg.inference.postprocess import split_instances
from denseg.inference.predictor import Predictor
from denseg.inference.regions import PixelSize, Region, find_regions
from denseg.inference.strategy import Strategy
from denseg.inference.stream import stream_labels
from denseg.inference.uncertainty import uncertainty_maps, write_uncertainty
from denseg.inference.writer import read_labels, write_instances, write_labels, write_overlay, write_probabilities
from denseg.workflows.inputs import Picture

__all__ = ["LARGE", "Extras", "Labelling", "Prediction", "expand_pages", "is_done"]

AHEAD = 2
"""Pictures read ahead and pictures waiting to be written, each: what bounds the memory."""
LARGE = 64 << 20
"""Pixels of a TIFF from which on it is read in windows."""

Array = npt.NDArray[Any]


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


@dataclass(frozen=True)
class Extras:
    """What is wanted besides labels, and how they are computed.

    Attributes:
        engine: ``auto``, ``torch``, ``onnx`` or ``openvino``.
        precision: ``float32`` or ``bf16``.
        probabilities: Write the probability of every class.
        variance: Write where the views of an image disagree.
        uncertainty: Write where the model is not sure, see ``inference.uncertainty``.
        dropout: Networks drawn with dropout on, for that.
        regions: Measure every region.
        instances: A class whose touching objects are told apart.
        distance: Pixels between the middles of two of them, at least.
    """

    engine: str = "torch"
    precision: str = "float32"
    probabilities: bool = False
    variance: bool = False
    uncertainty: bool = False
    dropout: int = 0
    regions: bool = False
    instances: str | None = None
    distance: int = 5

    @property
    def measures(self) -> bool:
        """Whether labels are looked at again."""
        return self.regions or self.instances is not None


def is_done(out: Path, picture: Picture) -> bool:
    """Say whether a picture is labelled already.

    Args:
        out: The folder of results.
        picture: The picture.

    Returns:
        Whether its labels are there.
    """
    return any((out / f"{picture.name}.{suffix}").is_file() for suffix in ("png", "tif"))


def expand_pages(
    pictures: Sequence[Picture],
) -> tuple[list[Picture], list[tuple[Path, str]]]:
    """Give every page of a TIFF stack as a picture of its own; only TIFF headers are read.

    Args:
        pictures: The files.

    Returns:
        The pictures, and the files that failed, each with the reason.
    """
    expanded: list[Picture] = []
    failed: list[tuple[Path, str]] = []
    for picture in pictures:
        try:
            pages = count_pages(picture.path) if picture.path.suffix.lower() in {".tif", ".tiff"} else 1
        except ImageError as error:
            failed.append((picture.path, _reason(error)))
            continue
        if pages == 1:
            expanded.append(picture)
        digits = len(str(pages - 1))
        for page in range(pages if pages > 1 else 0):
            expanded.append(replace(picture, name=f"{picture.name}-{page:0{digits}d}", page=page))
    return expanded, failed


class Labelling:
    """Read, compute, write: three pictures at a time, one in each.

    Attributes:
        predictions: Pictures labelled so far, in order.
        failed: Files that could not be read, each with the reason.
        notes: What is worth saying, once.
    """

    def __init__(
        self,
        predictor: Predictor,
        out: Path,
        *,
        extras: Extras | None = None,
        identity: str = "",
        progress: Callable[[float, int], None] | None = None,
    ) -> None:
        """Keep what is needed.

        Args:
            predictor: The model.
            out: The folder of results.
            extras: What is wanted besides labels.
            identity: What decides the results besides the picture; see ``stream_labels``.
            progress: Called with pictures done, parts of a large one included, and pictures in all.
        """
        self.predictor = predictor
        self.out = out
        self.identity = identity
        self.extras = extras or Extras()
        self.guard = InputGuard(predictor.metadata.get("training"))
        self.engine: EngineChoice | None = None
        self.regions: dict[str, tuple[list[Region], PixelSize | None]] = {}
        self._total = 0
        self.progress = progress or (lambda done, total: None)
        self.predictions: list[Prediction] = []
        self.failed: list[tuple[Path, str]] = []
        self.notes: list[str] = []
        self._writing: deque[Future[Prediction]] = deque()

    def run(self, pictures: Sequence[Picture]) -> None:
        """Label pictures.

        Args:
            pictures: Which.
        """
        self._total = len(pictures)
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            try:
                for number, (picture, read) in enumerate(_ahead(reader, self._read, pictures)):
                    self.progress(number, len(pictures))
                    try:
                        source = read.result()
                        if isinstance(source, TiffWindows):
                            with source:
                                self._settle(0)
                                self.predictions.append(self._stream(picture, source, number, len(pictures)))
                        else:
                            self._writing.append(writer.submit(*self._label(picture, source)))
                    except (DensegError, MemoryError, RuntimeError) as error:
                        self.failed.append((picture.path, _reason(error)))
                        continue
                    self._settle(AHEAD)
                self._settle(0)
            except BaseException:
                reader.shutdown(wait=False, cancel_futures=True)
                writer.shutdown(wait=True, cancel_futures=True)
                self.predictions += [job.result() for job in self._writing if _succeeded(job)]
                raise
        self.progress(len(pictures), len(pictures))
        self.notes += self.guard.lines()

    def _settle(self, left: int) -> None:
        while len(self._writing) > left:
            self.predictions.append(self._writing.popleft().result())

    def _read(self, picture: Picture) -> Array | TiffWindows:
        around = self.predictor.normalization.neighbours
        if not around and is_tiff(picture.path):
            windows = self._open(picture)
            if windows is not None:
                return windows
        return read_stack(picture.path, picture.page, around, max_pixels=self.predictor.max_pixels)

    def _open(self, picture: Picture) -> TiffWindows | None:
        """Open a TIFF that is large or says where it lies; ``None`` where it is read as a whole."""
        try:
            windows = TiffWindows(picture.path, page=picture.page)
        except ImageError:
            return None  # perhaps it can be read as a whole; if not, that says why
        if windows.height * windows.width > LARGE or windows.geo_tags:
            return windows
        windows.close()
        return None

    def _label(self, picture: Picture, image: Array) -> tuple[Any, ...]:
        """Compute one picture; what writes its files, and with which arguments."""
        strategy = self.predictor.strategy(image.shape[0], image.shape[1])
        self._start_engine(strategy, lambda: self.predictor.first_window(image, strategy, name=picture.path))
        self.guard.look(picture.path.name, image)
        probabilities = None
        if self.extras.probabilities or self.extras.uncertainty:
            probabilities = self.predictor.probabilities(image, strategy=strategy, name=picture.path)
            labels = self.predictor.label(probabilities, image)
        else:
            labels = self.predictor.predict(image, strategy=strategy, name=picture.path)
        variance = (
            self.predictor.variance(image, strategy=strategy, name=picture.path) if self.extras.variance else None
        )
        if self.extras.uncertainty and probabilities is not None:
            maps = uncertainty_maps(
                self.predictor, image, probabilities, dropout=self.extras.dropout, name=picture.path
            )
            write_uncertainty(self.out / "uncertainty" / f"{picture.name}.tif", maps)
            probabilities = probabilities if self.extras.probabilities else None
        if not strategy.exact:
            self._note(f"tiles are an approximation for large pictures: {strategy.reason}")
        return self._write, picture, image, labels, (probabilities, variance), (str(strategy), strategy.exact)

    def _start_engine(self, strategy: Strategy, window: Callable[[], Array]) -> None:
        """Choose the engine at the first picture: only then is a real tile there."""
        if self.engine is not None or (self.extras.engine == "torch" and self.extras.precision == "float32"):
            return
        self.engine = choose_engine(
            self.predictor,
            self.extras.engine,
            window(),
            precision=self.extras.precision,
            count=len(strategy.plan) * self._total,
            cache=cache_folder(),
        )
        if self.engine.name != "torch" or self.engine.precision != "float32":
            self._note(str(self.engine))

    def _write(
        self,
        picture: Picture,
        image: Array,
        labels: Array,
        maps: tuple[Array | None, Array | None],
        strategy: tuple[str, bool],
    ) -> Prediction:
        classes = self.predictor.classes
        target = self.out / f"{picture.name}.png"
        overlay = self.out / "overlay" / f"{picture.name}.png"
        write_overlay(overlay, image, labels, classes)
        for kind, values in zip(("probabilities", "variance"), maps, strict=True):
            if values is not None:
                write_probabilities(self.out / kind / f"{picture.name}.tif", values)
        self._measure(picture, labels)
        write_labels(target, labels, classes)
        pixels = np.bincount(labels.ravel(), minlength=len(classes))
        size = (labels.shape[0], labels.shape[1])
        return Prediction(picture.path, target, overlay, size, *strategy, tuple(pixels.tolist()))

    def _measure(self, picture: Picture, labels: Array) -> None:
        """Find regions and instances of a picture, where they are asked for."""
        if not self.extras.measures:
            return
        names, instances = self.predictor.classes.names, None
        if self.extras.instances is not None:
            instances = split_instances(labels == names.index(self.extras.instances), distance=self.extras.distance)
            write_instances(self.out / "instances" / f"{picture.name}.tif", instances)
        background = 0 if len(names) > 1 else None
        self.regions[picture.name] = (
            find_regions(labels, background=background, instances=instances),
            read_pixel_size(picture.path, page=picture.page),
        )

    def recall(self, picture: Picture) -> None:
        """Measure a picture that was labelled before.

        Args:
            picture: Which.
        """
        if self.extras.measures:
            found = next(
                self.out / f"{picture.name}{suffix}"
                for suffix in (".png", ".tif")
                if (self.out / f"{picture.name}{suffix}").is_file()
            )
            self._measure(picture, read_labels(found))

    def _stream(self, picture: Picture, windows: TiffWindows, number: int, count: int) -> Prediction:
        strategy = self.predictor.strategy(windows.height, windows.width)
        self._start_engine(strategy, lambda: self.predictor.first_window_of(windows, strategy))
        streamed = stream_labels(
            self.predictor,
            windows,
            self.out / f"{picture.name}.tif",
            overlay=self.out / "overlay" / f"{picture.name}.tif",
            identity=self.identity,
            progress=lambda done, total: self.progress(number + done / total, count),
        )
        if self.extras.probabilities or self.extras.variance or self.extras.uncertainty:
            self._note("probabilities and uncertainties of pictures that are read in windows are not kept")
        if self.predictor.postprocessing:
            self._note("pictures that are read in windows are not post-processed")
        if self.extras.measures:
            if windows.height * windows.width > LARGE:
                self._note("regions of pictures that are read in windows are not measured")
            else:
                self._measure(picture, read_labels(streamed.labels))
        if not streamed.strategy.exact:
            seams = streamed.seams
            self._note(
                f"{picture.path.name}: tiles are an approximation here ({streamed.strategy.reason}); where they "
                f"overlap, {100 * seams.share:.2f} % of the pixels got another label from the next tile"
            )
        overlay = streamed.overlay or streamed.labels
        exact = streamed.strategy.exact
        return Prediction(
            picture.path, streamed.labels, overlay, streamed.size, str(streamed.strategy), exact, streamed.pixels
        )

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[Picture], Array | TiffWindows], pictures: Sequence[Picture]
) -> Iterator[tuple[Picture, Future[Array | TiffWindows]]]:
    """Start reading a few pictures before they are needed."""
    waiting: deque[tuple[Picture, Future[Array | TiffWindows]]] = deque()
    for picture in pictures:
        waiting.append((picture, pool.submit(work, picture)))
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def _reason(error: Exception) -> str:
    """Say why one picture failed; what is no fault of the picture is raised again."""
    if isinstance(error, OutputError):
        raise error
    if isinstance(error, DensegError):
        said = " ".join(str(error).splitlines())
        return said.replace("--set data.max_pixels=", "--max-pixels ")  # what this command calls it
    if isinstance(error, MemoryError) or "alloc" in str(error) or "out of memory" in str(error):
        return "not enough memory for this picture; give a smaller --tile"
    raise error


def _succeeded(job: Future[Prediction]) -> bool:
    return job.done() and not job.cancelled() and job.exception() is None
