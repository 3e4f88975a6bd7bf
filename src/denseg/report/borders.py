# SPDX-License-Identifier: Apache-2.0
"""Where the errors lie: by distance to the nearest border between true regions.

Letters: H and W height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from denseg.report.facts import RunFacts
from denseg.report.numbers import share
from denseg.report.pixels import Labels
from denseg.report.sources import Sources

__all__ = ["BorderBand", "BorderErrors", "border_errors", "count_by_distance"]

_EDGES = (1, 2, 4, 8, 16, 32)  # pixels; the last band is all that is farther
_NEAR = 4
_MOST_IMAGES = 48
_MOST_PIXELS = 24_000_000  # a distance transform takes about 0.1 s per million


@dataclass(frozen=True)
class BorderBand:
    """Pixels whose distance to the nearest border lies in one range.

    Attributes:
        title: The range in pixels.
        rate: Part of its pixels that is wrong; ``None`` where it has none.
        share_of_errors: Part of all wrong pixels that lies in it.
        share_of_pixels: Part of all labelled pixels that lies in it.
    """

    title: str
    rate: float | None
    share_of_errors: float
    share_of_pixels: float


@dataclass(frozen=True)
class BorderErrors:
    """Errors by distance to the nearest border."""

    bands: tuple[BorderBand, ...]
    images: int
    words: str

    @property
    def highest(self) -> float:
        """The largest part of a band's pixels that is wrong."""
        return max((band.rate or 0.0 for band in self.bands), default=0.0) or 1.0


def border_errors(facts: RunFacts) -> BorderErrors | None:
    """Count the errors of the headline evaluation by distance to the nearest border.

    Args:
        facts: The run.

    Returns:
        The bands, from all images or, where they are many, from evenly chosen ones; ``None`` where no mask can be read,
        nothing is wrong, or no image has a border.
    """
    value = facts.headline
    if value is None:
        return None
    sources = Sources(facts, value["split"])
    total = np.zeros((len(_EDGES) + 1, 2), np.int64)
    images = 0
    for truth, prediction in _chosen(sources, value["per_image"]):
        counts = count_by_distance(truth, prediction, len(facts.classes))
        if counts is not None:
            total += counts
            images += 1
    pixels, errors = (int(number) for number in total.sum(axis=0))
    if not errors:
        return None
    titles = [
        "1",
        *(f"{low + 1}" if low + 1 == high else f"{low + 1} to {high}" for low, high in pairwise(_EDGES)),
    ]
    titles.append(f"over {_EDGES[-1]}")
    bands = tuple(
        BorderBand(title, int(wrong) / int(amount) if amount else None, int(wrong) / errors, int(amount) / pixels)
        for title, (amount, wrong) in zip(titles, total, strict=True)
    )
    near = _EDGES.index(_NEAR) + 1
    near_errors = sum(band.share_of_errors for band in bands[:near])
    near_pixels = sum(band.share_of_pixels for band in bands[:near])
    words = (
        f"{share(near_errors)} of the wrong pixels lie within {_NEAR} pixels of a border between true regions, where "
        f"{share(near_pixels)} of all pixels lie. "
    )
    words += (
        "Most errors are inexact borders."
        if near_errors > 0.5
        else "Most errors are whole regions, or parts of them, in the wrong class."
    )
    return BorderErrors(bands, images, words)


def count_by_distance(truth: Labels, prediction: Labels, num_classes: int) -> NDArray[np.int64] | None:
    """Count labelled and wrong pixels of one image by distance to the nearest border.

    Args:
        truth: ``(H, W)``; a label that is no class is left out, and makes no border.
        prediction: ``(H, W)``.
        num_classes: Labels below are classes.

    Returns:
        ``(bands, 2)``: labelled and wrong pixels; ``None`` where there is no border. Pixels beside a border have
        distance 1.
    """
    known = truth < num_classes
    border = np.zeros(truth.shape, bool)
    down = (truth[1:] != truth[:-1]) & known[1:] & known[:-1]
    right = (truth[:, 1:] != truth[:, :-1]) & known[:, 1:] & known[:, :-1]
    border[1:] |= down
    border[:-1] |= down
    border[:, 1:] |= right
    border[:, :-1] |= right
    if not border.any():
        return None
    distance = ndimage.distance_transform_edt(~border) + 1  # (H, W), 1 at the border
    band = np.searchsorted(_EDGES, distance[known])
    wrong = (truth != prediction)[known]
    pixels = np.bincount(band, minlength=len(_EDGES) + 1)
    errors = np.bincount(band[wrong], minlength=len(_EDGES) + 1)
    return np.stack((pixels, errors), axis=1)


def _chosen(sources: Sources, entries: list[dict[str, object]]) -> Iterable[tuple[Labels, Labels]]:
    """Read evenly chosen images until enough pixels were seen."""
    amount = min(len(entries), _MOST_IMAGES)
    seen = 0
    for index in _spread(amount):
        entry = entries[index * len(entries) // amount]
        truth, prediction = sources.truth(entry), sources.prediction(entry)
        if truth is None or prediction is None or truth.shape != prediction.shape:
            continue
        yield truth, prediction
        seen += truth.size
        if seen >= _MOST_PIXELS:
            return


def _spread(amount: int) -> list[int]:
    """Order 0..amount-1 so that every beginning of the list covers the range: by the bits of the number reversed."""
    bits = max(amount - 1, 1).bit_length()
    return sorted(range(amount), key=lambda number: int(f"{number:0{bits}b}"[::-1], 2))
