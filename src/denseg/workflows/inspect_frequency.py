# SPDX-License-Identifier: Apache-2.0
"""``denseg inspect --frequency``: which of an image's frequency bands a trained network reads.

The network scores the same images whole and with the low, the middle or the high band removed (see
``data.samples.frequency``; the mean of the image stays). The mIoU tells what a band is worth for the classes, the
boundary IoU what it is worth for their borders. Nothing is clipped: with a band removed values may leave the stored
range.

Shape letters: H and W height and width, C channels, K classes, N images, S bands.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from denseg.data.samples.frequency import CUTOFFS, remove_band, split_bands
from denseg.data.samples.pairs import read_pair
from denseg.errors import UsageError
from denseg.files import make_folder
from denseg.inference.predictor import Predictor
from denseg.inference.writer import display_limits, to_display
from denseg.metrics import PairedTest, boundary_counts, paired_ratios
from denseg.metrics.confusion import count_pairs
from denseg.report.numbers import plural
from denseg.training.interrupt import stoppable
from denseg.workflows.evaluate import find_images
from denseg.workflows.sheets import Panel, write_sheet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from denseg.data.folders.inventory import Pair
    from denseg.types import ClassTable

__all__ = ["FREQUENCY_IMAGES", "BandRow", "FrequencyReport", "inspect_frequency"]

FREQUENCY_IMAGES = 50
"""So many images are scored if not said otherwise; each is labelled S + 1 times."""

MAX_PIXELS = 4096 * 4096
"""Larger images are not taken apart: the transform needs them whole, in double precision."""

_NAMES = ("low", "middle", "high")
_WHOLE = "nothing"


@dataclass(frozen=True)
class BandRow:
    """What the network scores without one band.

    Attributes:
        name: Of the band.
        low: Lowest frequency, in cycles per pixel.
        high: Highest frequency.
        contrast: Standard deviation of the band over that of the image; over all images.
        miou: Without the band.
        boundary_iou: Without the band.
        miou_test: Against the whole images.
        boundary_test: The same of the boundary IoU.
    """

    name: str
    low: float
    high: float
    contrast: float
    miou: float
    boundary_iou: float
    miou_test: PairedTest
    boundary_test: PairedTest

    def to_json(self) -> dict[str, Any]:
        """Give the row as JSON values."""
        tests = {"miou": self.miou_test, "boundary_iou": self.boundary_test}
        return {
            "band": self.name,
            "cycles_per_pixel": [self.low, self.high],
            "contrast": _finite(self.contrast),
            "miou": _finite(self.miou),
            "boundary_iou": _finite(self.boundary_iou),
            **{f"{name}_difference": _finite(test.difference) for name, test in tests.items()},
            **{f"{name}_difference_interval": [_finite(test.low), _finite(test.high)] for name, test in tests.items()},
        }


@dataclass(frozen=True)
class FrequencyReport:
    """Scores with each band removed.

    Attributes:
        split: Name of the images.
        images: How many were scored.
        there: How many there are.
        miou: Of the whole images.
        boundary_iou: Of the whole images.
        rows: One per band, from low to high frequencies.
        picture: The bands of one image.
        notes: What is worth saying besides.
    """

    split: str
    images: int
    there: int
    miou: float
    boundary_iou: float
    rows: tuple[BandRow, ...]
    picture: Path
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Name in the JSON document."""
        return "frequency"

    def lines(self) -> list[str]:
        """Give the scores as text for a person."""
        of = "" if self.images == self.there else f" of {self.there}"
        width = max(len(_told(row)) for row in self.rows)
        lines = [
            "",
            f"frequency bands: {self.split}, {plural(self.images, 'image')}{of}; differences with 95 % intervals over "
            "images",
            f"{'removed':<{width}}  contrast   mIoU  {'difference':<25}  boundary IoU  difference",
            f"{_WHOLE:<{width}}  {'':>8}  {_shown(self.miou)}  {'':<25}  {_shown(self.boundary_iou):>12}",
        ]
        for row in self.rows:
            lines.append(
                f"{_told(row):<{width}}  {f'{100 * row.contrast:.0f} %':>8}  {_shown(row.miou)}  "
                f"{_difference(row.miou_test):<25}  {_shown(row.boundary_iou):>12}  {_difference(row.boundary_test)}"
            )
        lines += [_reading("mIoU", [(row.name, row.miou_test) for row in self.rows])]
        lines += [_reading("boundary IoU", [(row.name, row.boundary_test) for row in self.rows])]
        lines += [f"note: {note}" for note in self.notes]
        return [*lines, f"  {self.picture}  bands of one image, and what is predicted without each"]

    def to_json(self) -> dict[str, Any]:
        """Give the scores as JSON values."""
        return {
            "split": self.split,
            "images": self.images,
            "images_there": self.there,
            "whole": {"miou": _finite(self.miou), "boundary_iou": _finite(self.boundary_iou)},
            "removed": [row.to_json() for row in self.rows],
            "picture": str(self.picture),
            "notes": list(self.notes),
        }


def inspect_frequency(
    checkpoint: Path | str,
    data: Path | str,
    out: Path,
    *,
    limit: int = FREQUENCY_IMAGES,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> FrequencyReport:
    """Score a network on images without their low, middle and high frequencies.

    Args:
        checkpoint: A run or a checkpoint file.
        data: The folder of images and masks; those of ``val`` are scored, or all where there is no such split.
        out: Folder for the picture; made if it is not there.
        limit: The most images, taken evenly from all.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        progress: Called with images done and images in all.

    Returns:
        The scores, and where the picture is.

    Raises:
        UsageError: ``limit`` is less than 1, or all images are too large.
    """
    if limit < 1:
        raise UsageError(f"at least 1 image must be scored, got a limit of {limit}")
    with stoppable("interrupted; nothing was written"):
        predictor = Predictor.load(checkpoint, device=device)
        split, there, encoding, notes = find_images(predictor, checkpoint, data)
        classes = dataclasses.replace(predictor.classes, ignore_index=encoding.ignore_index)
        chosen = [there[index * len(there) // limit] for index in range(limit)] if len(there) > limit else there
        scored: list[Pair] = []
        counts, variances, sheet = [], [], None
        for done, pair in enumerate(chosen, start=1):
            image, target = read_pair(
                pair, encoding, bands=predictor.normalization.bands, max_pixels=predictor.max_pixels
            )
            if target.size <= MAX_PIXELS:
                bands = split_bands(predictor.normalization.fill(image), CUTOFFS)
                labels = _predict(predictor, pair, image, bands)
                counts.append([_count(each, target, classes) for each in labels])
                variances.append([_variance(image), *map(_variance, bands)])
                sheet = sheet or _panels(image, bands, target, labels, classes)
                scored.append(pair)
            if progress is not None:
                progress(done, len(chosen))
    if sheet is None:
        raise UsageError(
            f"all images of {data} have more than {MAX_PIXELS:,} pixels, too many to take them apart; cut them"
        )
    if len(scored) < len(chosen):
        notes += (f"{len(chosen) - len(scored)} images of more than {MAX_PIXELS:,} pixels were left out",)
    if predictor.postprocessing:
        notes += (f"post-processing: {predictor.postprocessing}",)
    make_folder(out)
    picture = out / f"{scored[0].image.stem}-bands.png"
    write_sheet(picture, sheet, columns=1 + len(_NAMES), title=f"Frequency bands of {scored[0].image.name}")
    table = np.asarray(counts)  # (N, S + 1, 2 scores, 2, K)
    spread = np.sqrt(np.sum(variances, axis=0))  # (S + 1,)
    rows = _rows(table, spread[1:] / spread[0] if spread[0] > 0 else np.zeros(len(_NAMES)), scored)
    whole = [_score(table[:, 0, index]) for index in range(2)]
    return FrequencyReport(split, len(scored), len(there), whole[0], whole[1], rows, picture, tuple(notes))


def _predict(
    predictor: Predictor, pair: Pair, image: NDArray[Any], bands: NDArray[np.float64]
) -> list[NDArray[np.integer[Any]]]:
    """Label the image whole and without each band."""
    labels = [predictor.predict(image, name=pair.image)]
    # In 0..1, where no value looks like one of another range: a dark image without a band is a darker one.
    scaled = copy.copy(predictor)
    scaled.normalization = dataclasses.replace(predictor.normalization, scale=1.0)
    for index in range(len(bands)):
        left = remove_band(bands, index) / predictor.normalization.scale
        labels.append(scaled.predict(left.astype(np.float32), name=pair.image))
    return labels


def _count(labels: NDArray[Any], target: NDArray[Any], classes: ClassTable) -> NDArray[np.int64]:
    """Count ``(2, 2, K)``: shared pixels and union of every class, of the masks and of the bands in their contours."""
    counts = count_pairs(labels, target, len(classes), classes.ignore_index)
    shared = np.diag(counts)
    masks = np.stack([shared, counts.sum(axis=0) + counts.sum(axis=1) - shared])
    return np.stack([masks, boundary_counts(labels, target, len(classes), classes.ignore_index)])


def _rows(table: NDArray[np.int64], contrast: NDArray[np.float64], pairs: Sequence[Pair]) -> tuple[BandRow, ...]:
    groups = [pair.group or pair.stem for pair in pairs]
    ends = (0.0, *CUTOFFS, math.sqrt(0.5))  # the shortest waves are diagonal
    rows = []
    for index, name in enumerate(_NAMES):
        scores, tests = [], []
        for score in range(2):
            whole, without = table[:, 0, score], table[:, 1 + index, score]  # (N, 2, K)
            scores.append(_score(without))
            tests.append(paired_ratios([(whole[:, 0], whole[:, 1])], [(without[:, 0], without[:, 1])], groups=groups))
        low, high = ends[index : index + 2]
        rows.append(BandRow(name, low, high, float(contrast[index]), scores[0], scores[1], tests[0], tests[1]))
    return tuple(rows)


def _score(counts: NDArray[np.int64]) -> float:
    """Give the mean over classes with a union of the ratio of ``(N, 2, K)`` counts, summed over images."""
    shared, union = counts.sum(axis=0)
    there = union > 0
    return float((shared[there] / union[there]).mean()) if there.any() else math.nan


def _variance(image: NDArray[Any]) -> float:
    """Average the variance of the channels over their own means."""
    values = image[np.isfinite(image).all(axis=2)].astype(np.float64)  # (pixels, C)
    return float(values.var(axis=0).mean()) if len(values) else 0.0


def _panels(
    image: NDArray[Any],
    bands: NDArray[np.float64],
    target: NDArray[Any],
    labels: Sequence[NDArray[Any]],
    classes: ClassTable,
) -> list[Panel]:
    """Lay out the image and its bands; the mask and the image without each; what is predicted of it and of those."""
    colors = np.asarray(classes.colors, np.uint8)
    known = target < len(classes)
    truth = np.where(known[:, :, None], colors[np.where(known, target, 0)], np.uint8(0))
    limits = None if image.dtype == np.uint8 else display_limits(image)

    def shown(values: NDArray[np.float64]) -> NDArray[np.uint8]:
        if limits is None:
            return to_display(values.round().clip(0, 255).astype(np.uint8))
        return to_display(values.astype(np.float32), limits)

    maps = [band.mean(axis=2) for band in bands]  # each (H, W)
    tops = [max(float(np.quantile(np.abs(each), 0.99)), 1e-6) for each in maps[1:]]
    first = [Panel(to_display(image, limits), "image"), Panel(shown(bands[0]), _NAMES[0])]
    first += [Panel(each, name, (-top, top)) for each, name, top in zip(maps[1:], _NAMES[1:], tops, strict=True)]
    second = [Panel(truth, "mask")]
    second += [Panel(shown(remove_band(bands, index)), f"without {name}") for index, name in enumerate(_NAMES)]
    titles = ["predicted", *(f"predicted without {name}" for name in _NAMES)]
    return first + second + [Panel(colors[each], title) for each, title in zip(labels, titles, strict=True)]


def _reading(score: str, tests: Sequence[tuple[str, PairedTest]]) -> str:
    """Say which band a score needs most, as far as the images tell."""
    needed = sorted((test.difference, name) for name, test in tests if test.high < 0)
    if not needed:
        return f"{score}: no removal lowers it clearly on these images"
    return f"{score} needs, most first: " + ", ".join(f"{name} ({difference:+.3f})" for difference, name in needed)


def _told(row: BandRow) -> str:
    """Name a band with its limits, for example ``middle, 1/32 to 1/8``."""
    low, high = (str(Fraction(end).limit_denominator(1000)) for end in (row.low, row.high))
    if row.low == 0:
        return f"{row.name}, below {high}"
    return f"{row.name}, above {low}" if row.name == _NAMES[-1] else f"{row.name}, {low} to {high}"


def _difference(test: PairedTest) -> str:
    return f"{test.difference:+.3f} ({test.low:+.3f} to {test.high:+.3f})"


def _shown(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "    -"


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
