# SPDX-License-Identifier: Apache-2.0
"""What is done to a whole result: dense CRF, thresholds, holes filled, specks removed, instances told apart.

It belongs to the model: a checkpoint stores it, the predictor applies it, exports carry it.

Letters: K classes, H and W image height and width, N pixels of a mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from denseg.errors import UnknownNameError, UsageError
from denseg.inference.crf import CRFParameters, dense_crf

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PostProcessing", "clean_labels", "split_instances", "threshold_labels"]

Array = npt.NDArray[Any]

EIGHT = np.ones((3, 3), bool)
"""Pixels that touch at a corner belong together; holes are joined at edges only."""


@dataclass(frozen=True)
class PostProcessing:
    """Steps, in the order in which they are done.

    Attributes:
        crf: Sharpen probabilities along the image's edges; ``None`` for not.
        thresholds: By class name, the least probability at which a pixel gets this class. Where several classes pass,
            the one farthest above its own wins; where none does, the most probable of the others.
        fill_holes: Holes of at most this many pixels, in a region of one class, become that class.
        min_area: Regions of fewer pixels become what is nearest to them.
    """

    crf: CRFParameters | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    fill_holes: int = 0
    min_area: int = 0

    def __post_init__(self) -> None:
        for name, value in self.thresholds.items():
            if not 0 < value < 1:
                raise UsageError(f"the threshold of class {name!r} must be between 0 and 1, got {value}")
        for name in ("fill_holes", "min_area"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must be at least 0 pixels, got {getattr(self, name)}")

    def __bool__(self) -> bool:
        return self.needs_probabilities or bool(self.fill_holes or self.min_area)

    @property
    def needs_probabilities(self) -> bool:
        """Whether labels alone do not do."""
        return self.crf is not None or bool(self.thresholds)

    def __str__(self) -> str:
        """Say the steps in one line."""
        steps = []
        if self.crf is not None:
            crf = self.crf
            steps.append(
                f"dense CRF ({crf.theta_alpha:g}/{crf.theta_beta:g} w {crf.appearance:g}, {crf.theta_gamma:g} w "
                f"{crf.smoothness:g}, {crf.iterations} iterations)"
            )
        steps += [f"{name} from {value:g}" for name, value in self.thresholds.items()]
        steps += [f"holes up to {self.fill_holes} pixels filled"] if self.fill_holes else []
        steps += [f"regions below {self.min_area} pixels removed"] if self.min_area else []
        return ", ".join(steps) or "nothing"

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON values: what a checkpoint stores as ``postprocessing``."""
        return {
            "crf": None if self.crf is None else self.crf.to_json(),
            "thresholds": dict(self.thresholds),
            "fill_holes": self.fill_holes,
            "min_area": self.min_area,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> PostProcessing:
        """Build it from what ``to_json`` gave.

        Args:
            value: The mapping, or ``None`` for no step.

        Returns:
            The steps.
        """
        value = value or {}
        crf = value.get("crf")
        return cls(
            None if crf is None else CRFParameters.from_json(crf),
            dict(value.get("thresholds") or {}),
            int(value.get("fill_holes", 0)),
            int(value.get("min_area", 0)),
        )

    def apply(
        self, probabilities: npt.NDArray[np.float32], image: Array, names: Sequence[str], *, scale: float = 255.0
    ) -> Array:
        """Do all steps.

        Args:
            probabilities: ``(K, H, W)``.
            image: ``(H, W, C)``, values of 0 to ``scale``; only the CRF looks at it.
            names: Of the classes.
            scale: Largest stored value of a pixel.

        Returns:
            ``(H, W)`` labels.
        """
        if self.crf is not None:
            shown = np.nan_to_num(image.astype(np.float32), posinf=0.0, neginf=0.0) * np.float32(255 / scale)
            shown = np.ascontiguousarray(shown[:, :, :3])  # more bands would thin the lattice out
            probabilities = dense_crf(probabilities, shown if shown.max() > 1 else np.zeros_like(shown), self.crf)
        labels = threshold_labels(probabilities, self.thresholds, names)
        return clean_labels(labels, fill_holes=self.fill_holes, min_area=self.min_area)


def threshold_labels(probabilities: Array, thresholds: Mapping[str, float], names: Sequence[str]) -> Array:
    """Label by thresholds.

    Args:
        probabilities: ``(K, H, W)``.
        thresholds: By class name; see :class:`PostProcessing`.
        names: Of the classes.

    Returns:
        ``(H, W)`` labels, uint8, or uint16 for more than 256 classes.

    Raises:
        UnknownNameError: There is no class of that name.
        UsageError: Every class has a threshold.
    """
    kind = np.uint8 if len(names) <= 256 else np.uint16
    if not thresholds:
        most: Array = probabilities.argmax(axis=0).astype(kind)
        return most
    for name in thresholds:
        if name not in names:
            raise UnknownNameError("class", name, names)
    if len(thresholds) == len(names):
        raise UsageError("every class has a threshold: leave one out, for pixels that pass none")
    excess = np.full(probabilities.shape, -1.0, np.float32)
    rest = probabilities.copy()
    for index, name in enumerate(names):
        if name in thresholds:
            passes = probabilities[index] >= thresholds[name]
            excess[index] = np.where(passes, probabilities[index] / np.float32(thresholds[name]), -1)
            rest[index] = -1
    labels: Array = np.where(excess.max(axis=0) > 0, excess.argmax(axis=0), rest.argmax(axis=0)).astype(kind)
    return labels


def clean_labels(labels: Array, *, fill_holes: int = 0, min_area: int = 0) -> Array:
    """Fill small holes and remove small regions.

    Args:
        labels: ``(H, W)``; not changed.
        fill_holes: Largest hole that is filled, pixels.
        min_area: Smallest region that stays, pixels; a picture without one stays as it is.

    Returns:
        ``(H, W)`` of the same type.
    """
    from scipy import ndimage

    labels = labels.copy()
    classes = [int(value) for value in np.unique(labels)]
    if fill_holes:
        for value in classes:
            mask = labels == value
            holes, count = ndimage.label(ndimage.binary_fill_holes(mask) & ~mask)
            if count:
                small = np.bincount(holes.ravel()) <= fill_holes
                small[0] = False
                labels[small[holes]] = value
    if min_area > 1:
        specks = np.zeros(labels.shape, bool)
        for value in classes:
            parts, count = ndimage.label(labels == value, structure=EIGHT)
            if count:
                small = np.bincount(parts.ravel()) < min_area
                small[0] = False
                specks |= small[parts]
        if specks.any() and not specks.all():
            nearest = ndimage.distance_transform_edt(specks, return_distances=False, return_indices=True)
            labels = labels[tuple(nearest)]
    return labels


def split_instances(mask: npt.NDArray[np.bool_], *, distance: int = 5) -> npt.NDArray[np.int32]:
    """Tell touching objects apart: a watershed of the distance to the border, from its peaks.

    Args:
        mask: ``(H, W)``, the pixels of one class.
        distance: Pixels between the middles of two objects, at least.

    Returns:
        ``(H, W)``: 0 outside, 1, 2, … for the objects, from top to bottom.
    """
    from scipy import ndimage
    from skimage.feature import peak_local_max
    from skimage.segmentation import watershed

    parts, _ = ndimage.label(mask, structure=EIGHT)
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    smooth = ndimage.gaussian_filter(depth, distance / 5)  # plateaus have one peak
    peaks: Array = peak_local_max(  # type: ignore[no-untyped-call]
        smooth, min_distance=distance, labels=parts, exclude_border=False
    )
    peaks = peaks[np.lexsort((peaks[:, 1], peaks[:, 0]))]
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    grown: Array = watershed(-smooth, markers, mask=mask)  # type: ignore[no-untyped-call]
    return grown.astype(np.int32)
