# SPDX-License-Identifier: Apache-2.0
"""Tune what is done after the network on labelled pictures: the dense CRF, thresholds, holes and specks.

The network sees each picture once; its probabilities are kept on the disk while the steps are tried. As in the papers a
CRF is searched from coarse to fine on at most 100 pictures, smoothness left at weight and width 3.

Letters: K classes, H and W image height and width.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from denseg.data.samples.pairs import read_pair
from denseg.inference.crf import CRFParameters
from denseg.inference.postprocess import PostProcessing
from denseg.metrics import ConfusionMatrix
from denseg.models import load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from denseg.data.encoding import MaskEncoding
    from denseg.data.folders.inventory import Pair
    from denseg.inference.predictor import Predictor

__all__ = ["Trial", "Tuner", "store_postprocessing"]

Array = npt.NDArray[Any]

PICTURES = 100
"""As in the DeepLab papers."""
WEIGHTS, PLACES, COLORS = (3.0, 4.0, 5.0, 6.0), tuple(float(x) for x in range(30, 101, 10)), (3.0, 4.0, 5.0, 6.0)
"""The papers' grid: weight, width in pixels and width in colour of the appearance kernel."""
AREAS = (0, 16, 64, 256, 1024)
THRESHOLDS = tuple(round(0.1 * step, 1) for step in range(1, 10))


@dataclass(frozen=True)
class Trial:
    """One setting and its score.

    Attributes:
        steps: The setting.
        miou: On the pictures.
    """

    steps: PostProcessing
    miou: float


class Tuner:
    """Keeps the probabilities of pictures, and tries steps on them.

    Attributes:
        trials: All that was tried, in order.
    """

    def __init__(
        self,
        predictor: Predictor,
        pairs: Sequence[Pair],
        encoding: MaskEncoding,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Compute the probabilities.

        Args:
            predictor: The model; its own post-processing is where the search starts.
            pairs: Pictures and masks; evenly spread ones if they are too many.
            encoding: What stored mask values mean.
            progress: Called with pictures done and pictures in all.
        """
        self.predictor = predictor
        self.trials: list[Trial] = []
        self._ignore = encoding.ignore_index
        self._folder = tempfile.TemporaryDirectory(prefix="denseg-")
        self._scale = predictor.normalization.scale
        self._files: list[tuple[Path, Array, Array]] = []
        chosen = pairs[:: max(1, -(-len(pairs) // PICTURES))]
        bands, limit = predictor.normalization.bands, predictor.max_pixels
        for number, pair in enumerate(chosen, start=1):
            image, target = read_pair(pair, encoding, bands=bands, max_pixels=limit)
            path = Path(self._folder.name) / f"{number}.npy"
            np.save(path, predictor.probabilities(image, name=pair.image).astype(np.float16))
            self._files.append((path, image, target))
            if progress is not None:
                progress(number, len(chosen))

    def __enter__(self) -> Tuner:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def score(self, steps: PostProcessing) -> float:
        """Score a setting.

        Args:
            steps: The setting.

        Returns:
            mIoU over the pictures.
        """
        known = next((trial for trial in self.trials if trial.steps == steps), None)
        if known is not None:
            return known.miou
        names = self.predictor.classes.names
        matrix = ConfusionMatrix(len(names), self._ignore)
        with ThreadPoolExecutor(1) as pool:
            for probabilities, image, target in self._ahead(pool):
                matrix.update(steps.apply(probabilities, image, names, scale=self._scale), target)
        self.trials.append(Trial(steps, matrix.compute().miou))
        return self.trials[-1].miou

    def search_crf(self, steps: PostProcessing) -> PostProcessing:
        """Find the CRF, or none, that scores best.

        Args:
            steps: The other steps.

        Returns:
            The same with the best CRF.
        """
        grid = [
            CRFParameters(place, color, weight)
            for weight in WEIGHTS[::2]
            for place in PLACES[::3]
            for color in COLORS[::2]
        ]
        best = self._best([replace(steps, crf=None), *(replace(steps, crf=crf) for crf in grid)])
        while best.crf is not None:
            better = self._best([best, *(replace(best, crf=crf) for crf in _around(best.crf))])
            if better == best:
                break
            best = better
        return best

    def search_steps(self, steps: PostProcessing) -> PostProcessing:
        """Find the threshold (of a model with two classes), the holes and the regions that score best, in turn.

        Args:
            steps: The start.

        Returns:
            The best found.
        """
        names = self.predictor.classes.names
        best = steps
        if len(names) == 2:
            best = self._best([best, *(replace(best, thresholds={names[1]: value}) for value in THRESHOLDS)])
        best = self._best([best, *(replace(best, min_area=area) for area in AREAS)])
        return self._best([best, *(replace(best, fill_holes=area) for area in AREAS)])

    def _best(self, settings: Sequence[PostProcessing]) -> PostProcessing:
        """The first of the best ones, so that equal scores keep the simpler setting."""
        return max(settings, key=lambda steps: round(self.score(steps), 6))

    def _ahead(self, pool: ThreadPoolExecutor) -> Iterator[tuple[Array, Array, Array]]:
        """Read the next probabilities while these are worked on."""
        following = pool.submit(np.load, self._files[0][0])
        for index, (_, image, target) in enumerate(self._files):
            values = following.result().astype(np.float32)
            if index + 1 < len(self._files):
                following = pool.submit(np.load, self._files[index + 1][0])
            yield values, image, target


def _around(crf: CRFParameters) -> Iterator[CRFParameters]:
    """One step of the papers' grid from a setting, along each axis."""
    for name, axis in (("appearance", WEIGHTS), ("theta_alpha", PLACES), ("theta_beta", COLORS)):
        place = axis.index(getattr(crf, name))
        for other in (place - 1, place + 1):
            if 0 <= other < len(axis):
                yield CRFParameters.from_json(crf.to_json() | {name: axis[other]})


def store_postprocessing(path: Path, steps: PostProcessing) -> None:
    """Write steps into a checkpoint; nothing else in it changes.

    Args:
        path: The checkpoint.
        steps: The steps.
    """
    model, metadata = load_checkpoint(path)
    kept = {key: value for key, value in metadata.items() if value is not None and key in _KEPT}
    save_checkpoint(model, path, **{**kept, "postprocessing": steps.to_json() if steps else None})


_KEPT = ("calibration", "classes", "commit", "encoding", "halo", "normalization", "notes", "training")
