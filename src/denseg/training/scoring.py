# SPDX-License-Identifier: Apache-2.0
"""Score labelled images with a predictor: the one way that a run's own evaluation and ``denseg eval`` share.

Letters: H and W image height and width, C bands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from denseg.data.samples.pairs import read_pair
from denseg.training.details import Details
from denseg.training.evaluation import Evaluation

if TYPE_CHECKING:
    from denseg.data.encoding import MaskEncoding
    from denseg.data.folders.folder import Pair
    from denseg.inference.predictor import Predictor
    from denseg.types import ClassTable

__all__ = ["score_pairs"]

AHEAD = 2
"""Pairs read before they are needed."""
MOST_PROBABILITIES = 1 << 28
"""Pixels times classes of an image up to which its probabilities are looked at: 1 GiB."""

_Read = tuple[NDArray[Any], NDArray[Any]]


def score_pairs(
    predictor: Predictor,
    pairs: Sequence[Pair],
    *,
    encoding: MaskEncoding,
    classes: ClassTable,
    on_image: Callable[[Pair, NDArray[Any]], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Label every image and count it against its mask; the next images are read meanwhile.

    Args:
        predictor: The model.
        pairs: Images and masks.
        encoding: What stored mask values mean.
        classes: The classes, with the label that means "no label".
        on_image: Called with each pair and its ``(H, W)`` predicted labels.
        progress: Called with images done and images in all.

    Returns:
        The counts of every image.
    """
    details = Details(len(classes), classes.ignore_index, len(pairs), temperature=predictor.temperature)
    evaluation = Evaluation(classes, details=details)
    bands, limit = predictor.normalization.bands, predictor.max_pixels
    with ThreadPoolExecutor(1) as pool:
        try:
            for pair, read in _ahead(
                pairs, lambda item: pool.submit(read_pair, item, encoding, bands=bands, max_pixels=limit)
            ):
                image, target = read.result()
                labels, probabilities = _label(predictor, image, pair)
                evaluation.add(pair, labels, target, probabilities)
                if on_image is not None:
                    on_image(pair, labels)
                if progress is not None:
                    progress(len(evaluation.pairs), len(pairs))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return evaluation


def _label(predictor: Predictor, image: NDArray[Any], pair: Pair) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """Label an image; with the probabilities where they fit into memory."""
    if image.shape[0] * image.shape[1] * len(predictor.classes) > MOST_PROBABILITIES:
        return predictor.predict(image, name=pair.image), None
    probabilities = predictor.probabilities(image, name=pair.image)  # (K, H, W)
    return predictor.label(probabilities, image), probabilities


def _ahead(pairs: Sequence[Pair], start: Callable[[Pair], Future[_Read]]) -> Iterator[tuple[Pair, Future[_Read]]]:
    waiting: deque[tuple[Pair, Future[_Read]]] = deque()
    for pair in pairs:
        waiting.append((pair, start(pair)))
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting
