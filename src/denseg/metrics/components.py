# SPDX-License-Identifier: Apache-2.0
"""Whether objects stay whole: pieces, holes, merges and recall per connected component.

Definitions:
    Components are connected regions of one class (diagonal neighbours included). For each true component of a class:
    pieces: predicted components of the class that overlap it; 0: it vanished.
    holes: connected regions (without diagonals) inside it that were given another class and do not touch its outside.
    recall: share of its pixels that were given the class.
    merges: a predicted component that overlaps n true ones of its class merges n - 1; so neither vanishing nor merging
    is rewarded.
    A component is intact when it is one piece, without hole, and that piece overlaps no other true component.
    The property named "isolation" is that of C. Li et al., "HDNet", Neurocomputing 447 (2021), which gives no formula.
    Counts are summed over images; ratios are taken of the sums.
    Pixels without label do not count; they take the predicted class.

Shape letters: B batch, K classes, H and W height and width, S strata.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from denseg.errors import UsageError
from denseg.metrics.arrays import label_maps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from denseg.metrics.arrays import Labels

__all__ = ["Continuity", "SizeRecall", "continuity", "size_recall"]

_EIGHT = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True, eq=False)
class Continuity:
    """Sums over true components, one value per class; add images up with ``+``.

    Attributes:
        components: True components.
        pieces: Predicted pieces that overlap them.
        holes: Holes inside them.
        recall_sum: Sum of their recalls.
        vanished: Components that no piece overlaps.
        merges: True components that share a predicted piece with another, less one per piece.
        intact: Components that are one piece of their own, without holes.
    """

    components: NDArray[np.int64]
    pieces: NDArray[np.int64]
    holes: NDArray[np.int64]
    recall_sum: NDArray[np.float64]
    vanished: NDArray[np.int64]
    merges: NDArray[np.int64]
    intact: NDArray[np.int64]

    def __add__(self, other: Continuity) -> Continuity:
        """Sum the counts of two sets of images."""
        return Continuity(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @property
    def pieces_per_component(self) -> NDArray[np.float64]:
        """Mean number of pieces of a component, per class; NaN for a class without components. 1 is best."""
        return _per(self.pieces, self.components)

    @property
    def holes_per_component(self) -> NDArray[np.float64]:
        """Mean number of holes of a component, per class; 0 is best."""
        return _per(self.holes, self.components)

    @property
    def recall(self) -> NDArray[np.float64]:
        """Mean recall of a component, per class: every component counts alike, however small."""
        return _per(self.recall_sum, self.components)

    @property
    def intact_share(self) -> NDArray[np.float64]:
        """Share of components that are intact, per class."""
        return _per(self.intact, self.components)

    @property
    def score(self) -> float:
        """Mean of ``intact_share`` over the classes with components: 1 where every object stays whole and alone."""
        share = self.intact_share[self.components > 0]
        return float(share.mean()) if share.size else float("nan")


def continuity(
    prediction: Labels, target: Labels, num_classes: int, ignore_index: int = 255, *, min_size: int = 1
) -> Continuity:
    """Count what became of every true component.

    Args:
        prediction: ``(H, W)`` or ``(B, H, W)``, in 0..K-1.
        target: The same shape, in 0..K-1 or ``ignore_index``.
        num_classes: K.
        ignore_index: Label that carries no class.
        min_size: True components and predicted pieces of fewer labelled pixels are left out.

    Returns:
        The sums per class.

    Raises:
        UsageError: ``min_size`` is less than 1.
    """
    if min_size < 1:
        raise UsageError(f"min_size must be at least 1 pixel, got {min_size}")
    sums = np.zeros((7, num_classes))
    for guess, truth, valid in zip(*label_maps(prediction, target, num_classes, ignore_index), strict=True):
        for k in np.unique(truth[valid]):
            sums[:, k] += _continuity_of_class(guess == k, truth == k, valid, min_size)
    integers = sums.astype(np.int64)
    return Continuity(integers[0], integers[1], integers[2], sums[3], integers[4], integers[5], integers[6])


@dataclass(frozen=True, eq=False)
class SizeRecall:
    """Recall of true components by their size; add images up with ``+``.

    Attributes:
        bounds: Sizes in pixels that part the strata: below the first, from the first to below the second, …
        components: ``(S,)`` true components.
        recall_sum: ``(S,)`` sum of their recalls.
        found: ``(S,)`` components of which at least half was given their class.
    """

    bounds: tuple[int, ...]
    components: NDArray[np.int64]
    recall_sum: NDArray[np.float64]
    found: NDArray[np.int64]

    def __add__(self, other: SizeRecall) -> SizeRecall:
        """Sum the counts of two sets of images.

        Args:
            other: Of the same bounds.

        Returns:
            The sums.

        Raises:
            UsageError: The bounds differ.
        """
        if self.bounds != other.bounds:
            raise UsageError(f"size strata to merge must agree in bounds, got {self.bounds} and {other.bounds}")
        return SizeRecall(
            self.bounds,
            self.components + other.components,
            self.recall_sum + other.recall_sum,
            self.found + other.found,
        )

    @property
    def recall(self) -> NDArray[np.float64]:
        """Mean recall of a component, per stratum; NaN where it has none."""
        return _per(self.recall_sum, self.components)

    @property
    def found_share(self) -> NDArray[np.float64]:
        """Share of components found, per stratum."""
        return _per(self.found, self.components)


def size_recall(
    prediction: Labels,
    target: Labels,
    num_classes: int,
    ignore_index: int = 255,
    *,
    bounds: Sequence[int] = (32**2, 96**2),
) -> SizeRecall:
    """Tell how much of small and of large components is found.

    Args:
        prediction: ``(H, W)`` or ``(B, H, W)``, in 0..K-1.
        target: The same shape, in 0..K-1 or ``ignore_index``.
        num_classes: K.
        ignore_index: Label that carries no class.
        bounds: Sizes in pixels, increasing, that part small from medium from large; COCO's by default.

    Returns:
        The sums per stratum.

    Raises:
        UsageError: ``bounds`` does not increase.
    """
    if sorted(set(bounds)) != list(bounds):
        raise UsageError(f"bounds must increase, got {list(bounds)}")
    count = len(bounds) + 1
    sums = np.zeros((3, count))
    for guess, truth, valid in zip(*label_maps(prediction, target, num_classes, ignore_index), strict=True):
        for k in np.unique(truth[valid]):
            size, right = _sizes(_label(truth == k, _EIGHT), (guess == k) & valid, valid)
            recall = right[size > 0] / size[size > 0]
            stratum = np.searchsorted(bounds, size[size > 0], side="right")
            sums[0] += np.bincount(stratum, minlength=count)
            sums[1] += np.bincount(stratum, recall, minlength=count)
            sums[2] += np.bincount(stratum, recall >= 0.5, minlength=count)
    return SizeRecall(tuple(bounds), sums[0].astype(np.int64), sums[1], sums[2].astype(np.int64))


def _continuity_of_class(
    guess: NDArray[np.bool_], truth: NDArray[np.bool_], valid: NDArray[np.bool_], min_size: int
) -> tuple[float, ...]:
    components, pieces = _label(truth, _EIGHT), _label(guess, _EIGHT)
    size, right = _sizes(components, guess & valid, valid)
    kept = size >= min_size
    piece_size, _ = _sizes(pieces, guess, valid)
    met = truth & guess & valid
    codes = np.unique(components[met] * (piece_size.size + 1) + pieces[met])  # one number sorts faster than a pair
    overlap = np.stack(np.divmod(codes, piece_size.size + 1))
    overlap = overlap[:, kept[overlap[0] - 1] & (piece_size[overlap[1] - 1] >= min_size)]  # (2, pairs)
    pieces_of = np.bincount(overlap[0] - 1, minlength=kept.size)
    components_of = np.bincount(overlap[1] - 1, minlength=piece_size.size)
    shared = np.zeros(kept.size, dtype=bool)
    shared[overlap[0][components_of[overlap[1] - 1] > 1] - 1] = True
    holes = _holes(components, truth & ~guess)
    intact = kept & (pieces_of == 1) & ~shared & (holes == 0)
    return (
        kept.sum(),
        pieces_of[kept].sum(),
        holes[kept].sum(),
        (right[kept] / size[kept]).sum(),
        (pieces_of[kept] == 0).sum(),
        np.maximum(components_of - 1, 0).sum(),
        intact.sum(),
    )


def _holes(components: NDArray[np.int64], wrong: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count per component the wrong regions that have no neighbour outside it; the image's edge is outside."""
    regions = _label(wrong, None)
    outside = np.pad(components == 0, 1, constant_values=True)
    touches = outside[2:, 1:-1] | outside[:-2, 1:-1] | outside[1:-1, 2:] | outside[1:-1, :-2]
    open_region = np.zeros(regions.max(initial=0) + 1, dtype=bool)
    open_region[regions[touches]] = True
    owner = np.zeros(open_region.size, dtype=np.int64)
    owner[regions] = components
    enclosed = owner[1:][~open_region[1:]]
    return np.bincount(enclosed, minlength=components.max(initial=0) + 1)[1:].astype(np.int64)


def _sizes(
    components: NDArray[np.int64], right: NDArray[np.bool_], valid: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count labelled pixels and right pixels of each component."""
    count = components.max(initial=0) + 1
    size = np.bincount(components[valid], minlength=count)[1:]
    return size.astype(np.int64), np.bincount(components[right], minlength=count)[1:].astype(np.int64)


def _label(mask: NDArray[np.bool_], structure: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    labels: NDArray[np.int64] = ndimage.label(mask, structure)[0].astype(np.int64)
    return labels


def _per(numerator: NDArray[np.int64] | NDArray[np.float64], denominator: NDArray[np.int64]) -> NDArray[np.float64]:
    ratio = np.full(denominator.shape, np.nan)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio
