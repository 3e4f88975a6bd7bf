# SPDX-License-Identifier: Apache-2.0
"""What an evaluation tells beyond the confusion matrix: borders, whole objects, small objects, honest probabilities.

Objects and borders take longer than the counts, so of very large splits evenly chosen images are looked at; of every
image a sample of pixels says how far probabilities can be believed.

Shape letters: N images, n images looked at closely, K classes, H and W image height and width, M sampled pixels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from denseg.metrics import (
    Calibration,
    RiskCoverage,
    SizeRecall,
    apply_temperature,
    bootstrap_ratios,
    boundary_counts,
    continuity,
    fit_temperature,
    size_recall,
)

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

__all__ = ["Details"]

CLOSE_LOOK = 2_000_000_000
"""Pixels times classes that are looked at closely: about ten minutes on one core."""
SAMPLED = 1_000_000
"""Pixels of all images whose probabilities are kept."""
SAMPLED_VALUES = 64_000_000
"""Pixels times classes that are kept: 256 MiB."""
LEAST = 200
"""Pixels kept of an image at least."""
FITTED = 200_000
"""Pixels that a temperature is fitted to."""
POINTS = 60
"""Of the risk-coverage curve that is written."""


class Details:
    """Sums over the images of a split.

    Attributes:
        looked: Indices of the images that were looked at closely.
        boundary: ``(2, K)`` for each: pixels in both bands of a class, in either.
        intact: ``(K,)`` for each: true components that stayed whole and alone.
        components: ``(K,)`` for each: true components.
        temperature: By which the probabilities are scaled already.
    """

    def __init__(self, num_classes: int, ignore_index: int, images: int, *, temperature: float = 1.0) -> None:
        """Start from nothing.

        Args:
            num_classes: K.
            ignore_index: Label that carries no class.
            images: How many will come.
            temperature: By which the probabilities that will come are scaled.
        """
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.images = images
        self.looked: list[int] = []
        self.boundary: list[NDArray[np.int64]] = []
        self.intact: list[NDArray[np.int64]] = []
        self.components: list[NDArray[np.int64]] = []
        self.temperature = temperature
        self._sizes: SizeRecall | None = None
        self._samples: list[tuple[NDArray[np.floating], NDArray[np.int64]] | None] = []  # (K, M), (M,); -1: no label
        self._every = 0

    def add(
        self,
        prediction: NDArray[np.integer],
        target: NDArray[np.integer],
        probabilities: NDArray[np.float32] | None = None,
    ) -> None:
        """Look at one image.

        Args:
            prediction: ``(H, W)`` labels in 0..K-1.
            target: ``(H, W)`` labels in 0..K-1 or ``ignore_index``.
            probabilities: ``(K, H, W)``, summing to 1 over K.
        """
        number = len(self._samples)
        if not self._every:
            self._every = max(1, math.ceil(self.images * target.size * self.num_classes / CLOSE_LOOK))
        if number % self._every == 0:
            self._look(number, prediction, target)
        self._samples.append(None if probabilities is None else self._sample(number, probabilities, target))

    @property
    def entropy(self) -> list[float | None]:
        """Mean entropy of each image's pixels in 0..1; ``None`` where there are no probabilities."""
        scale = math.log(self.num_classes) if self.num_classes > 1 else 1.0
        return [
            None if sample is None else round(float(_entropy(sample[0]).mean(dtype=np.float64)) / scale, 5)
            for sample in self._samples
        ]

    def scale(self) -> float | None:
        """Fit the temperature under which the labels are most likely, and scale the probabilities by it.

        Returns:
            The temperature; ``None`` without probabilities of labelled pixels.
        """
        values, labels = self._labelled()
        if not labels.size or self.num_classes < 2:
            return None
        chosen = np.random.default_rng(0).permutation(labels.size)[:FITTED]
        found = fit_temperature(values[:, chosen].T, labels[chosen])
        self._samples = [
            None if sample is None else (apply_temperature(sample[0], found), sample[1]) for sample in self._samples
        ]
        self.temperature *= found
        return found

    def _look(self, number: int, prediction: NDArray[np.integer], target: NDArray[np.integer]) -> None:
        facts = (prediction.astype(np.int64), target.astype(np.int64), self.num_classes, self.ignore_index)
        whole = continuity(*facts)
        sizes = size_recall(*facts)
        self.looked.append(number)
        self.boundary.append(boundary_counts(*facts))
        self.intact.append(whole.intact)
        self.components.append(whole.components)
        self._sizes = sizes if self._sizes is None else self._sizes + sizes

    def _sample(
        self, number: int, probabilities: NDArray[np.float32], target: NDArray[np.integer]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        most = min(SAMPLED, SAMPLED_VALUES // self.num_classes) // max(self.images, 1)
        flat, truth = probabilities.reshape(self.num_classes, -1), target.reshape(-1).astype(np.int64)
        chosen = np.sort(np.random.default_rng(number).permutation(truth.size)[: max(LEAST, most)])
        labels = truth[chosen]
        return flat[:, chosen], np.where(labels == self.ignore_index, -1, labels)

    def _labelled(self) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
        """Join the labelled pixels of all images: ``(K, M)`` and ``(M,)``."""
        kept = [sample for sample in self._samples if sample is not None]
        if not kept:
            return np.zeros((self.num_classes, 0), np.float32), np.zeros(0, np.int64)
        values, labels = np.concatenate([v for v, _ in kept], axis=1), np.concatenate([t for _, t in kept])
        return values[:, labels >= 0], labels[labels >= 0]

    def to_json(self, groups: Sequence[Hashable], seed: int) -> dict[str, Any]:
        """Write ``boundary``, ``continuity``, ``sizes``, ``calibration`` and ``risk_coverage``.

        Args:
            groups: One value per image; images of equal value are drawn together.
            seed: Of the bootstrap.

        Returns:
            JSON values; a part that nothing is known of is ``None``.
        """
        near = [groups[index] for index in self.looked]
        boundary = np.stack(self.boundary) if self.boundary else np.zeros((0, 2, self.num_classes))
        whole = np.stack(self.intact) if self.intact else np.zeros((0, self.num_classes))
        components = np.stack(self.components) if self.components else np.zeros((0, self.num_classes))
        return {
            "boundary": _ratios(boundary[:, 0], boundary[:, 1], near, seed),
            "continuity": _ratios(whole, components, near, seed),
            "sizes": self._strata(),
            "calibration": self._honesty(),
            "risk_coverage": self._curve(),
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Give the counts of single images, for paired tests."""
        if not self.looked:
            return {}
        return {
            "looked": np.asarray(self.looked, dtype=np.int64),
            "boundary": np.stack(self.boundary),
            "intact": np.stack(self.intact),
            "components": np.stack(self.components),
        }

    def _strata(self) -> list[dict[str, Any]] | None:
        sizes = self._sizes
        if sizes is None:
            return None
        ends = [0, *sizes.bounds]
        return [
            {
                "from": ends[index],
                "to": ends[index + 1] if index + 1 < len(ends) else None,
                "components": int(sizes.components[index]),
                "recall": _number(float(sizes.recall[index])),
                "found": _number(float(sizes.found_share[index])),
            }
            for index in range(len(ends))
        ]

    def _honesty(self) -> dict[str, Any] | None:
        values, labels = self._labelled()
        if not labels.size:
            return None
        found, unscaled = (
            Calibration(ignore_index=-1).update(scores[None, :, :, None], labels[None, :, None])
            for scores in (values, apply_temperature(values, 1 / self.temperature))
        )
        return {
            "temperature": self.temperature,
            "expected_calibration_error": _rounded(found.expected_calibration_error),
            "unscaled_error": _rounded(unscaled.expected_calibration_error),
            "brier_score": _rounded(found.brier_score),
            "pixels": int(labels.size),
            "bins": [
                {"confidence": _rounded(float(sure)), "accuracy": _rounded(float(right)), "pixels": int(pixels)}
                for sure, right, pixels in zip(*found.reliability, strict=True)
            ],
        }

    def _curve(self) -> dict[str, Any] | None:
        values, labels = self._labelled()
        if not labels.size:
            return None
        risk = RiskCoverage().update(values.max(axis=0).clip(0, 1), values.argmax(axis=0) == labels)
        curve = risk.curve()
        wanted = np.linspace(0, 1, POINTS + 1)[1:]
        places = np.unique(np.searchsorted(curve.coverage, wanted).clip(max=curve.coverage.size - 1))
        return {
            "area": _rounded(risk.area),
            "coverage": [round(float(value), 5) for value in curve.coverage[places]],
            "risk": [round(float(value), 5) for value in curve.risk[places]],
            "threshold": [float(value) for value in curve.threshold[places]],
        }


def _entropy(values: NDArray[np.floating]) -> NDArray[np.floating]:
    entropy: NDArray[np.floating] = -(values * np.log(np.maximum(values, 1e-30))).sum(axis=0)
    return entropy


def _rounded(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None


def _ratios(
    numerators: NDArray[Any], denominators: NDArray[Any], groups: Sequence[Hashable], seed: int
) -> dict[str, Any] | None:
    if not len(numerators):
        return None
    total, below = numerators.sum(axis=0), denominators.sum(axis=0)
    each = [float(a) / float(b) if b else None for a, b in zip(total, below, strict=True)]
    there = [value for value in each if value is not None]
    drawn = bootstrap_ratios(numerators, denominators, seed, groups=groups)
    low, high = np.quantile(drawn, [0.025, 0.975]) if there else (math.nan, math.nan)
    return {
        "score": float(np.mean(there)) if there else None,
        "interval": [_number(float(low)), _number(float(high))],
        "classes": each,
        "images": len(numerators),
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
