# SPDX-License-Identifier: Apache-2.0
"""Which images the page shows, and each as picture, truth, prediction and errors in little space."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from denseg.report.facts import RunFacts
from denseg.report.numbers import share
from denseg.report.pixels import (
    Color,
    Labels,
    errors_png,
    labels_png,
    photo_webp,
    shrink_labels,
    shrink_photo,
    to_display,
)
from denseg.report.sources import Sources

__all__ = ["Shot", "ShotGroup", "choose", "take_shots"]

_BUDGET = 2_800_000  # characters of all pictures together; the page stays under 5 MB with everything else
_LONGEST = 960  # pixels of the longest side, where the budget allows
_SHORTEST = 64
_ENOUGH = 12  # up to so many images all are shown


@dataclass(frozen=True)
class Shot:
    """One image of the page.

    Attributes:
        stem: Its name.
        miou: Its score, ``None`` where it has none.
        accuracy: Part of its pixels that is right, ``None`` where none is labelled.
        words: What is wrong with it.
        width: Of the pictures, in pixels.
        height: Of the pictures, in pixels.
        photo: Address of the picture, empty where the file is gone.
        truth: Address of the true labels, empty where the file is gone.
        prediction: Address of the predicted labels.
        errors: Address of the errors, empty where the truth is gone.
    """

    stem: str
    miou: float | None
    accuracy: float | None
    words: str
    width: int
    height: int
    photo: str
    truth: str
    prediction: str
    errors: str


@dataclass(frozen=True)
class ShotGroup:
    """Images shown together: the worst, the typical, the best."""

    key: str
    title: str
    shots: tuple[Shot, ...]


@dataclass(frozen=True)
class _Pixels:
    entry: Mapping[str, Any]
    photo: NDArray[np.uint8] | None
    truth: Labels | None
    prediction: Labels
    words: str


def choose(entries: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str, tuple[Mapping[str, Any], ...]], ...]:
    """Pick the images worth seeing.

    Args:
        entries: ``per_image`` of an evaluation.

    Returns:
        Key, title and images of each group: worst first, then those that the model is least sure of, then around the
        median, then best first; few images are one group, worst first.
    """
    ranked = sorted(
        (entry for entry in entries if entry["miou"] is not None), key=lambda entry: (entry["miou"], entry["stem"])
    )
    if len(ranked) <= _ENOUGH:
        return (("all", "All images, worst first", tuple(ranked)),) if ranked else ()
    middle = max(len(ranked) // 2, 7)  # past the six worst
    groups = [
        ("worst", "Worst", tuple(ranked[:6])),
        ("typical", "Typical", tuple(ranked[middle - 1 : middle + 2])),
        ("best", "Best", tuple(ranked[:-4:-1])),
    ]
    shown = [entry["stem"] for _, _, entries in groups for entry in entries]
    unsure = [entry for entry in ranked if entry.get("entropy") is not None and entry["stem"] not in shown]
    if unsure:
        unsure.sort(key=lambda entry: (-entry["entropy"], entry["stem"]))
        groups.insert(1, ("uncertain", "Most uncertain of the others", tuple(unsure[:3])))
    return tuple(groups)


def take_shots(facts: RunFacts, colors: Sequence[Color]) -> tuple[ShotGroup, ...]:
    """Read the chosen images of the headline evaluation and make them small.

    Args:
        facts: The run.
        colors: One colour per class.

    Returns:
        The groups; an image whose prediction cannot be read is left out.
    """
    value = facts.headline
    if value is None:
        return ()
    sources = Sources(facts, value["split"])
    groups = []
    for key, title, entries in choose(value["per_image"]):
        there = [found for entry in entries if (found := _load(sources, entry)) is not None]
        if there:
            groups.append((key, title, there))
    longest = _LONGEST
    while True:
        shots = tuple(
            ShotGroup(key, title, tuple(_encode(found, longest, colors) for found in there))
            for key, title, there in groups
        )
        weight = sum(len(part) for group in shots for shot in group.shots for part in _addresses(shot))
        if weight <= _BUDGET or longest <= _SHORTEST:
            return shots
        longest = max(_SHORTEST, min(int(longest * 0.95 * (_BUDGET / weight) ** 0.5), longest - 1))


def _load(sources: Sources, entry: Mapping[str, Any]) -> _Pixels | None:
    labels = sources.prediction(entry)
    if labels is None:
        return None
    image, truth = sources.image(entry), sources.truth(entry)
    gone = ["image"] * (image is None) + ["mask"] * (truth is None)
    words = ""
    if truth is not None and truth.shape != labels.shape:
        truth = None
    if truth is not None:
        words = _mistake_words(truth, labels, sources.facts.classes.names)
    if gone:
        words = f"The {' and the '.join(gone)} cannot be read any more. {words}".strip()
    return _Pixels(
        entry=entry,
        photo=None if image is None else shrink_photo(to_display(image), _LONGEST),
        truth=None if truth is None else shrink_labels(truth, 2 * _LONGEST),
        prediction=shrink_labels(labels, 2 * _LONGEST),
        words=words,
    )


def _mistake_words(truth: Labels, prediction: Labels, names: Sequence[str]) -> str:
    known = truth < len(names)
    if not known.any():
        return "No pixel is labelled."
    pair = truth[known].astype(np.int64) * len(names) + np.minimum(prediction[known], len(names) - 1)
    counts = np.bincount(pair, minlength=len(names) ** 2).reshape(len(names), len(names))  # (K, K)
    hits = int(np.trace(counts))
    total = int(counts.sum())
    if hits == total:
        return "Every labelled pixel is right."
    np.fill_diagonal(counts, 0)
    called, by = divmod(int(counts.argmax()), len(names))
    return (
        f"{share(1 - hits / total)} of its pixels are wrong, most often {names[called]} taken for {names[by]} "
        f"({share(int(counts.max()) / total)})."
    )


def _encode(found: _Pixels, longest: int, colors: Sequence[Color]) -> Shot:
    prediction = shrink_labels(found.prediction, longest)
    truth = None if found.truth is None else shrink_labels(found.truth, longest)
    wrong = None if truth is None else (truth != prediction) & (truth < len(colors))
    return Shot(
        stem=found.entry["stem"],
        miou=found.entry["miou"],
        accuracy=found.entry.get("pixel_accuracy"),
        words=found.words,
        width=prediction.shape[1],
        height=prediction.shape[0],
        photo="" if found.photo is None else photo_webp(shrink_photo(found.photo, longest)),
        truth="" if truth is None else labels_png(truth, colors),
        prediction=labels_png(prediction, colors),
        errors="" if wrong is None else errors_png(wrong),
    )


def _addresses(shot: Shot) -> Iterable[str]:
    return shot.photo, shot.truth, shot.prediction, shot.errors
