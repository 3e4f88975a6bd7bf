# SPDX-License-Identifier: Apache-2.0
"""How features lie: close to their class and far from the others, or not.

Definition:
    The scatter of features about their common mean is that about the means of their classes (within) and that of the
    means about the common mean, each weighted by its number of positions (between): R. A. Fisher, "The use of multiple
    measurements in taxonomic problems", Annals of Eugenics 7, 1936. Compactness is between / (within + between): 1
    where every class is a point, 0 where all classes share one mean. What the HFD loss of C. Li et al., "HDNet",
    Neurocomputing 447 (2021), is meant to raise. Sums over images, then ratios. Positions without label do not count.

Shape letters: B batch, D channels, K classes, H and W height and width of the labels, h and w of the features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from denseg.errors import ShapeError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from denseg.metrics.arrays import Labels

__all__ = ["FeatureScatter", "feature_compactness"]


@dataclass(frozen=True, eq=False)
class FeatureScatter:
    """Sums over positions, per class; add images up with ``+``.

    Attributes:
        counts: ``(K,)`` labelled positions.
        sums: ``(K, D)`` sum of the features.
        squares: ``(K,)`` sum of the features' squared lengths.
    """

    counts: NDArray[np.int64]
    sums: NDArray[np.float64]
    squares: NDArray[np.float64]

    def __add__(self, other: FeatureScatter) -> FeatureScatter:
        """Sum two sets of images.

        Args:
            other: Of the same classes and channels.

        Returns:
            The sums.

        Raises:
            UsageError: The shapes differ.
        """
        if self.sums.shape != other.sums.shape:
            raise UsageError(
                f"scatters to merge must agree in classes and channels, got {self.sums.shape} and {other.sums.shape}"
            )
        return FeatureScatter(self.counts + other.counts, self.sums + other.sums, self.squares + other.squares)

    @property
    def centers(self) -> NDArray[np.float64]:
        """``(K, D)`` mean feature of each class; NaN for a class without positions."""
        counts = self.counts.astype(np.float64)
        return self.sums / np.where(counts > 0, counts, np.nan)[:, None]

    @property
    def within(self) -> NDArray[np.float64]:
        """``(K,)`` mean squared distance of a class's features from their mean; NaN for a class without positions."""
        counts = np.where(self.counts > 0, self.counts, 1)
        spread = self.squares / counts - np.square(self.sums / counts[:, None]).sum(axis=1)
        return np.where(self.counts > 0, np.maximum(spread, 0.0), np.nan)

    @property
    def between(self) -> float:
        """Mean squared distance of the classes' means from the common mean, weighted by positions; NaN without any."""
        total = int(self.counts.sum())
        if total == 0:
            return float("nan")
        met = self.counts > 0
        away = np.square(self.centers[met] - self.sums.sum(axis=0) / total).sum(axis=1)
        return float((self.counts[met] * away).sum() / total)

    @property
    def compactness(self) -> float:
        """Share of the scatter that lies between classes, in 0..1; NaN where features do not vary at all."""
        total = int(self.counts.sum())
        within = float(np.nansum(self.within * self.counts)) / total if total else float("nan")
        whole = within + self.between
        return self.between / whole if whole > 0 else float("nan")


def feature_compactness(features: Tensor, target: Labels, num_classes: int, ignore_index: int = 255) -> FeatureScatter:
    """Measure how features gather around the means of their classes.

    Args:
        features: ``(B, D, h, w)``, floating point, for example ``output.features``.
        target: ``(B, H, W)`` or, of one image, ``(H, W)``, in 0..K-1 or ``ignore_index``; the label under the middle of
            each position counts.
        num_classes: K.
        ignore_index: Label that carries no class.

    Returns:
        The sums; ``.compactness`` is the score.

    Raises:
        ShapeError: Shapes, dtypes or labels do not fit.
    """
    labels = torch.as_tensor(np.asarray(target) if not isinstance(target, Tensor) else target)
    labels = labels.detach().cpu()
    labels = labels[None] if labels.ndim == 2 else labels
    if features.ndim != 4 or not features.is_floating_point() or labels.ndim != 3 or len(labels) != len(features):
        raise ShapeError(
            f"feature_compactness takes features (B, D, h, w) and labels (B, H, W), got {features.dtype} "
            f"{tuple(features.shape)} and {tuple(labels.shape)}"
        )
    rows, columns = (
        ((torch.arange(count) + 0.5) * (length / count)).long().clamp(max=length - 1)
        for count, length in zip(features.shape[2:], labels.shape[1:], strict=True)
    )
    picked = labels[:, rows][:, :, columns].flatten().long()  # (B * h * w,)
    valid = picked != ignore_index
    wrong = picked[valid & ((picked < 0) | (picked >= num_classes))]
    if wrong.numel():
        raise ShapeError(f"target must hold classes 0..{num_classes - 1} or {ignore_index}, got {int(wrong[0])}")
    vectors = features.detach().cpu().double().permute(0, 2, 3, 1).flatten(0, 2)[valid]  # (n, D)
    classes = picked[valid]
    sums = torch.zeros(num_classes, features.shape[1], dtype=torch.float64).index_add_(0, classes, vectors)
    squares = torch.zeros(num_classes, dtype=torch.float64).index_add_(0, classes, vectors.square().sum(dim=1))
    counts = torch.bincount(classes, minlength=num_classes)
    return FeatureScatter(counts.numpy(), sums.numpy(), squares.numpy())
