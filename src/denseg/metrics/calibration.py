# SPDX-License-Identifier: Apache-2.0
"""Whether a model that says 80 % is right 80 times out of 100.

Definitions:
    Each labelled pixel has a confidence, the largest probability, and is right or wrong. Confidences are parted into
    bins of equal width; in each the mean confidence is held against the share of right pixels (reliability diagram).
    ``expected_calibration_error``: the mean of the bins' differences, weighted by pixels. C. Guo et al., "On
    Calibration of Modern Neural Networks", ICML 2017, Section 2.
    ``brier_score``: the mean over pixels of the squared distance between the probabilities and the true class's one-hot
    vector, 0 to 2. G. W. Brier, "Verification of forecasts expressed in terms of probability", 1950.
    Sums are taken over all pixels of all images.

Shape letters: B batch, K classes, H and W height and width, N bins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from denseg.errors import ShapeError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Calibration", "Reliability", "brier_score", "expected_calibration_error"]


class Reliability(NamedTuple):
    """The bins of a reliability diagram, each ``(N,)``.

    Attributes:
        confidence: Mean confidence; NaN in an empty bin.
        accuracy: Share of right pixels; NaN in an empty bin.
        pixels: Number of pixels.
    """

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    pixels: NDArray[np.int64]


class Calibration:
    """Sums over pixels from which all calibration scores follow; mergeable.

    Attributes:
        bins: N.
        ignore_index: Label that carries no class.
    """

    def __init__(self, *, bins: int = 15, ignore_index: int = 255) -> None:
        """Start from nothing.

        Args:
            bins: Number of bins of equal width, N.
            ignore_index: Label that carries no class.

        Raises:
            UsageError: ``bins`` is less than 1.
        """
        if bins < 1:
            raise UsageError(f"calibration needs at least 1 bin, got {bins}")
        self.bins = bins
        self.ignore_index = ignore_index
        self._sums = np.zeros((3, bins))  # confidence, right pixels, pixels
        self._squares = 0.0

    def update(self, probabilities: Tensor | NDArray[np.floating], target: Tensor | NDArray[np.integer]) -> Calibration:
        """Count the pixels of one or more images.

        Args:
            probabilities: ``(B, K, H, W)`` or ``(K, H, W)``, summing to 1 over K.
            target: ``(B, H, W)`` or ``(H, W)``, in 0..K-1 or ``ignore_index``.

        Returns:
            These sums.

        Raises:
            ShapeError: Shapes or values do not fit.
        """
        scores, labels = (torch.as_tensor(value) for value in (probabilities, target))
        if scores.ndim == 3 and labels.ndim == 2:
            scores, labels = scores[None], labels[None]
        if scores.ndim != 4 or labels.shape != (scores.shape[0], *scores.shape[2:]):
            raise ShapeError(
                "calibration takes probabilities (B, K, H, W) and target (B, H, W), "
                f"got {tuple(scores.shape)} and {tuple(labels.shape)}"
            )
        labels = labels.long()
        valid = labels != self.ignore_index
        kept = scores.movedim(1, -1)[valid].double()  # (M, K), M labelled pixels
        truth = labels[valid]
        if truth.numel() == 0:
            return self
        if int(truth.min()) < 0 or int(truth.max()) >= kept.shape[1]:
            raise ShapeError(f"target must hold classes 0..{kept.shape[1] - 1}, got {int(truth.max())}")
        if not bool(((kept.sum(dim=1) - 1).abs() < 1e-2).all() and (kept > -1e-3).all()):
            raise ShapeError(
                "probabilities must be at least 0 and sum to 1 over the classes; take the softmax of logits"
            )
        confidence, answer = kept.max(dim=1)
        right = (answer == truth).double()
        index = (confidence * self.bins).long().clamp(max=self.bins - 1)
        for row, values in enumerate((confidence, right, torch.ones_like(right))):
            self._sums[row] += torch.bincount(index, values, minlength=self.bins).cpu().numpy()
        own = kept.gather(1, truth[:, None])[:, 0]
        self._squares += float((kept.square().sum(dim=1) - 2 * own + 1).sum())
        return self

    def __add__(self, other: Calibration) -> Calibration:
        """Merge the sums of two sets of images into new ones.

        Args:
            other: With as many bins.

        Returns:
            The sums of both.

        Raises:
            UsageError: The numbers of bins differ.
        """
        if self.bins != other.bins:
            raise UsageError(f"calibrations to merge must agree in bins, got {self.bins} and {other.bins}")
        merged = Calibration(bins=self.bins, ignore_index=self.ignore_index)
        merged._sums = self._sums + other._sums
        merged._squares = self._squares + other._squares
        return merged

    @property
    def expected_calibration_error(self) -> float:
        """Mean difference of confidence and accuracy over pixels, 0 is best; NaN where no pixel is labelled."""
        confidence, right, pixels = self._sums
        return float(np.abs(confidence - right).sum() / pixels.sum()) if pixels.any() else float("nan")

    @property
    def brier_score(self) -> float:
        """Mean squared distance from the truth, 0 is best, 2 is worst; NaN where no pixel is labelled."""
        pixels = self._sums[2].sum()
        return self._squares / float(pixels) if pixels else float("nan")

    @property
    def reliability(self) -> Reliability:
        """The bins, for the diagram."""
        confidence, right, pixels = self._sums
        empty = np.full((2, self.bins), np.nan)
        np.divide([confidence, right], pixels, out=empty, where=pixels > 0)
        return Reliability(empty[0], empty[1], pixels.astype(np.int64))


def expected_calibration_error(
    probabilities: Tensor | NDArray[np.floating],
    target: Tensor | NDArray[np.integer],
    *,
    ignore_index: int = 255,
    bins: int = 15,
) -> float:
    """Compute the expected calibration error of some images.

    Args:
        probabilities: ``(B, K, H, W)`` or ``(K, H, W)``, summing to 1 over K.
        target: ``(B, H, W)`` or ``(H, W)``, in 0..K-1 or ``ignore_index``.
        ignore_index: Label that carries no class.
        bins: Number of bins of equal width.

    Returns:
        The error, 0 is best.
    """
    return Calibration(bins=bins, ignore_index=ignore_index).update(probabilities, target).expected_calibration_error


def brier_score(
    probabilities: Tensor | NDArray[np.floating], target: Tensor | NDArray[np.integer], *, ignore_index: int = 255
) -> float:
    """Compute the Brier score of some images.

    Args:
        probabilities: ``(B, K, H, W)`` or ``(K, H, W)``, summing to 1 over K.
        target: ``(B, H, W)`` or ``(H, W)``, in 0..K-1 or ``ignore_index``.
        ignore_index: Label that carries no class.

    Returns:
        The score, 0 is best.
    """
    return Calibration(ignore_index=ignore_index).update(probabilities, target).brier_score
