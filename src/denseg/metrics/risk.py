# SPDX-License-Identifier: Apache-2.0
"""How many errors are left where the model may leave out what it is unsure of.

Definition:
    Y. Geifman, R. El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS 2017: pixels are taken in the
    order of their confidence; coverage is the share taken, risk the share of those that are wrong. The area under the
    curve (AURC) is the mean risk over all coverages, 0 is best. Confidences are counted in bins, so that images add up;
    a bin's pixels are taken together.

Shape letters: N bins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from denseg.errors import ShapeError, UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["RiskCoverage", "RiskCurve"]


class RiskCurve(NamedTuple):
    """Points of the curve, from the most confident pixels on; each ``(n,)``.

    Attributes:
        coverage: Share of the pixels taken, rising to 1.
        risk: Share of those that are wrong.
        threshold: Smallest confidence taken.
    """

    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]
    threshold: NDArray[np.float64]


class RiskCoverage:
    """Counts over pixels from which the curve follows; mergeable.

    Attributes:
        counts: ``(2, N)`` int64: pixels and wrong pixels of each bin of confidence.
    """

    def __init__(self, *, bins: int = 1000) -> None:
        """Start from nothing.

        Args:
            bins: Number of bins of equal width over 0..1, N.

        Raises:
            UsageError: ``bins`` is less than 1.
        """
        if bins < 1:
            raise UsageError(f"a risk-coverage curve needs at least 1 bin, got {bins}")
        self.counts: NDArray[np.int64] = np.zeros((2, bins), dtype=np.int64)

    def update(self, confidence: ArrayLike, right: ArrayLike) -> RiskCoverage:
        """Count pixels.

        Args:
            confidence: In 0..1, any shape.
            right: Whether each was labelled right, the same shape.

        Returns:
            These counts.

        Raises:
            ShapeError: The shapes differ, or a confidence lies outside of 0..1.
        """
        sure, hit = np.asarray(confidence, dtype=np.float64).ravel(), np.asarray(right, dtype=bool).ravel()
        if sure.shape != hit.shape:
            raise ShapeError(f"confidence and right must have one shape, got {np.shape(confidence)} and {hit.shape}")
        if not sure.size:
            return self
        if not (sure.min() >= 0 and sure.max() <= 1 + 1e-5):
            raise ShapeError(f"confidence must lie in 0..1, got values from {sure.min():g} to {sure.max():g}")
        bins = self.counts.shape[1]
        index = np.minimum((sure * bins).astype(np.int64), bins - 1)
        self.counts[0] += np.bincount(index, minlength=bins)
        self.counts[1] += np.bincount(index[~hit], minlength=bins)
        return self

    def __add__(self, other: RiskCoverage) -> RiskCoverage:
        """Merge the counts of two sets of images into new ones.

        Args:
            other: With as many bins.

        Returns:
            The sums of both.

        Raises:
            UsageError: The numbers of bins differ.
        """
        if self.counts.shape != other.counts.shape:
            raise UsageError(
                f"risk-coverage counts to merge must agree in bins, got {self.counts.shape[1]} and "
                f"{other.counts.shape[1]}"
            )
        merged = RiskCoverage(bins=self.counts.shape[1])
        merged.counts = self.counts + other.counts
        return merged

    def curve(self) -> RiskCurve:
        """Give the points, one per bin that holds pixels; empty where there are none."""
        pixels, wrong = self.counts[:, ::-1]
        bins = len(pixels)
        taken, errors = pixels.cumsum(), wrong.cumsum()
        kept = pixels > 0
        total = max(int(taken[-1]), 1)
        threshold = (np.arange(bins)[::-1] / bins)[kept]
        return RiskCurve(taken[kept] / total, errors[kept] / taken[kept], threshold)

    @property
    def area(self) -> float:
        """Mean risk over coverages; NaN without pixels."""
        curve = self.curve()
        if not curve.coverage.size:
            return float("nan")
        # Within a bin the order is unknown: the risk is taken to run straight from point to point.
        coverage = np.concatenate([[0.0], curve.coverage])
        risk = np.concatenate([curve.risk[:1], curve.risk])
        return float(((risk[1:] + risk[:-1]) / 2 * np.diff(coverage)).sum())
