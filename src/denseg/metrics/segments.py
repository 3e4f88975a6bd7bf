# SPDX-License-Identifier: Apache-2.0
"""Scores of partitions into objects, as the ISBI 2012 challenge on neuron membranes takes them.

Definitions:
    I. Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for connectomics",
    Frontiers in Neuroanatomy 9:142 (2015). From the joint distribution p(s, t) of predicted and true objects over the
    true foreground (object 0 is background and left out of the truth):
    split = sum p(s,t)^2 / sum t^2, merge = sum p(s,t)^2 / sum s^2, and V_rand is their harmonic mean (F, alpha 1/2);
    V_info is the same with mutual information over the entropies of t and of s.
    ``adapted_rand_error`` is one minus the F of pairs of different pixels, scikit-image's definition.
    ``warping_error``: V. Jain et al., "Boundary Learning by Optimization with Topological Constraints", CVPR 2010: the
    share of pixels that still differ after the truth has been changed, pixel by pixel and without changing its
    topology (4-connected objects, 8-connected background), into a map as near to the prediction as that leads.
    Protocol: objects are the 4-connected components of one 2-D slice; a threshold on probabilities is chosen on the
    validation split alone; ``thin_borders`` grows the predicted objects until one pixel parts them, as the challenge
    does before it scores.

Shape letters: H and W height and width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from scipy import ndimage, sparse

from denseg.errors import ShapeError, UsageError
from denseg.metrics.arrays import label_pair

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from denseg.metrics.arrays import Labels

__all__ = [
    "PartitionScores",
    "adapted_rand_error",
    "objects_of",
    "pixel_error",
    "thin_borders",
    "v_info",
    "v_rand",
    "warping_error",
]

Background = Literal["object", "singletons"]


class PartitionScores(NamedTuple):
    """How well two partitions agree; 1 is best.

    Attributes:
        f_score: Harmonic mean of the two others.
        split: Low where true objects are cut into pieces.
        merge: Low where predicted objects hold several true ones.
    """

    f_score: float
    split: float
    merge: float


def objects_of(foreground: Labels) -> NDArray[np.int64]:
    """Number the 4-connected components of a mask.

    Args:
        foreground: ``(H, W)``, non-zero inside objects (for ISBI 2012: not membrane).

    Returns:
        ``(H, W)``: 0 is background, objects count from 1.
    """
    mask, _ = label_pair(foreground, foreground)
    labels: NDArray[np.int64] = ndimage.label(_one_slice(mask) != 0)[0].astype(np.int64)
    return labels


def thin_borders(objects: Labels) -> NDArray[np.int64]:
    """Grow objects into the background until lines of one pixel part them.

    Args:
        objects: ``(H, W)``, 0 is background.

    Returns:
        ``(H, W)``, the same objects, larger.
    """
    from skimage.segmentation import watershed

    markers = _one_slice(label_pair(objects, objects)[0])
    if not markers.any():
        return markers
    distance = ndimage.distance_transform_edt(markers == 0)
    grown = watershed(distance, markers, watershed_line=True)  # type: ignore[no-untyped-call]  # scikit-image's gap
    return np.asarray(grown, dtype=np.int64)


def v_rand(
    prediction: Labels, target: Labels, *, background: Literal["object", "singletons"] = "object"
) -> PartitionScores:
    """Compute the foreground-restricted Rand score.

    Args:
        prediction: ``(H, W)`` predicted objects.
        target: ``(H, W)`` true objects; 0 is left out.
        background: What predicted 0 is on the true foreground: one more object, or every pixel one of its own.

    Returns:
        The scores; NaN where there is no true foreground.
    """
    joint, predicted, true = _joint(prediction, target, background)
    if not true.size:
        return PartitionScores(float("nan"), float("nan"), float("nan"))
    return _harmonic(float((joint**2).sum() / (true**2).sum()), float((joint**2).sum() / (predicted**2).sum()))


def v_info(
    prediction: Labels, target: Labels, *, background: Literal["object", "singletons"] = "object"
) -> PartitionScores:
    """Compute the foreground-restricted information theoretic score.

    Args:
        prediction: ``(H, W)`` predicted objects.
        target: ``(H, W)`` true objects; 0 is left out.
        background: See ``v_rand``.

    Returns:
        The scores; NaN where there is no true foreground. A partition into one object has no entropy: the score that
        would divide by it is 1.
    """
    joint, predicted, true = _joint(prediction, target, background)
    if not true.size:
        return PartitionScores(float("nan"), float("nan"), float("nan"))
    predicted_entropy, true_entropy = _entropy(predicted), _entropy(true)
    shared = max(0.0, predicted_entropy + true_entropy - _entropy(joint))
    split = shared / predicted_entropy if predicted_entropy > 0 else 1.0
    merge = shared / true_entropy if true_entropy > 0 else 1.0
    return _harmonic(split, merge)


def adapted_rand_error(prediction: Labels, target: Labels) -> float:
    """Compute one minus the F-score of the pairs of pixels that share an object.

    Args:
        prediction: ``(H, W)`` predicted objects; 0 is one of them.
        target: ``(H, W)`` true objects; pixels of 0 are left out.

    Returns:
        The error, 0 is best; equal to ``skimage.metrics.adapted_rand_error(target, prediction)[0]``. NaN where fewer
        than two pixels are true foreground or no two share an object in either map.
    """
    joint, predicted, true = _joint(prediction, target, "object", normalize=False)
    pairs, in_prediction, in_truth = (float((counts * (counts - 1)).sum()) for counts in (joint, predicted, true))
    if in_prediction + in_truth == 0:
        return float("nan")
    return 1 - 2 * pairs / (in_prediction + in_truth)


def pixel_error(prediction: Labels, target: Labels, *, kind: Literal["difference", "f_score"] = "difference") -> float:
    """Compare two binary maps pixel by pixel.

    Args:
        prediction: ``(H, W)`` or ``(B, H, W)``, non-zero inside objects.
        target: The same shape.
        kind: ``difference``: the share of pixels that differ; ``f_score``: one minus the F-score of the pixels
            inside objects.

    Returns:
        The error, 0 is best.

    Raises:
        UsageError: ``kind`` is neither of the two.
    """
    a, b = (labels != 0 for labels in label_pair(prediction, target))
    if kind == "difference":
        return float((a != b).mean())
    if kind != "f_score":
        raise UsageError(f"kind must be 'difference' or 'f_score', got {kind!r}")
    total = int(a.sum() + b.sum())
    return float(1 - 2 * (a & b).sum() / total) if total else 0.0


def warping_error(prediction: Labels, target: Labels, *, radius: float = float("inf")) -> float:
    """Compute the share of pixels that differ for topological reasons.

    Simple pixels (whose change alters no connectivity) of the truth that differ from the prediction are changed, row by
    row, until none is left; which ones can depend on the order.

    Args:
        prediction: ``(H, W)``, non-zero inside objects.
        target: The same shape.
        radius: Farthest from the true border that a pixel may be changed, in pixels.

    Returns:
        The error, 0 is best.
    """
    guess, truth = (_one_slice(labels) != 0 for labels in label_pair(prediction, target))
    edge = np.zeros(truth.shape, dtype=bool)
    edge[1:] |= truth[1:] != truth[:-1]
    edge[:, 1:] |= truth[:, 1:] != truth[:, :-1]
    edge[:-1] |= truth[1:] != truth[:-1]
    edge[:, :-1] |= truth[:, 1:] != truth[:, :-1]
    distance = ndimage.distance_transform_edt(~edge) if edge.any() else np.full(truth.shape, np.inf)
    may_change = np.pad(distance <= radius, 1, constant_values=False)
    warped = np.pad(truth, 1, constant_values=False).astype(np.uint8)  # the outside is background
    goal = np.pad(guess, 1, constant_values=False).astype(np.uint8)
    _compiled()(warped, goal, may_change, _simple_table())
    return float((warped[1:-1, 1:-1] != goal[1:-1, 1:-1]).mean())


def _joint(
    prediction: Labels, target: Labels, background: Background, *, normalize: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Count how often each pair of objects, each predicted and each true object occurs on the true foreground."""
    if background not in {"object", "singletons"}:
        raise UsageError(f"background must be 'object' or 'singletons', got {background!r}")
    guess, truth = (_one_slice(labels) for labels in label_pair(prediction, target))
    foreground = truth != 0
    if not foreground.any():
        return np.empty(0), np.empty(0), np.empty(0)
    _, guess_index = np.unique(guess[foreground], return_inverse=True)
    _, truth_index = np.unique(truth[foreground], return_inverse=True)
    if background == "singletons":
        free = guess[foreground] == 0
        guess_index[free] = guess_index.max() + 1 + np.arange(np.count_nonzero(free))
    table = sparse.coo_array((np.ones(guess_index.size), (guess_index, truth_index))).tocsr()
    joint = table.data.astype(np.float64)
    predicted, true = (np.asarray(table.sum(axis=axis), dtype=np.float64).ravel() for axis in (1, 0))
    total = joint.sum() if normalize else 1.0
    return joint / total, predicted[predicted > 0] / total, true / total


def _entropy(share: NDArray[np.float64]) -> float:
    return float(-(share * np.log(share)).sum())


def _harmonic(split: float, merge: float) -> PartitionScores:
    f_score = 2 * split * merge / (split + merge) if split + merge else 0.0
    return PartitionScores(f_score, split, merge)


def _one_slice(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    if labels.shape[0] != 1:
        raise ShapeError(f"objects are scored slice by slice, (H, W); got {labels.shape}")
    first: NDArray[np.int64] = labels[0]
    return first


@functools.cache
def _simple_table() -> NDArray[np.bool_]:
    """For each of the 256 neighbourhoods: whether changing the middle leaves all connectivity as it was.

    It does where exactly one 4-connected object of the neighbourhood touches the middle by a side, and exactly one
    8-connected piece of background is there (which then touches it too).
    """
    table = np.zeros(256, dtype=bool)
    sides = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=bool)
    for code in range(256):
        around = np.array([code >> bit & 1 for bit in range(8)], dtype=bool)
        block = np.insert(around, 4, False).reshape(3, 3)
        objects, _ = ndimage.label(block)
        empty = ~block
        empty[1, 1] = False
        _, pieces = ndimage.label(empty, np.ones((3, 3)))
        table[code] = len(set(objects[block & sides])) == 1 and pieces == 1
    return table


@functools.cache
def _compiled() -> Callable[..., None]:
    import numba

    try:
        compiled: Callable[..., None] = numba.njit(cache=True, nogil=True)(_warp)
    except RuntimeError:  # no folder to keep compiled code in
        compiled = numba.njit(nogil=True)(_warp)
    return compiled


def _warp(
    warped: NDArray[np.uint8], goal: NDArray[np.uint8], may_change: NDArray[np.bool_], simple: NDArray[np.bool_]
) -> None:
    """Change simple pixels of ``warped`` that differ from ``goal``, in place, until none is left."""
    height, width = warped.shape
    changed = True
    while changed:
        changed = False
        for i in range(1, height - 1):
            for j in range(1, width - 1):
                if warped[i, j] == goal[i, j] or not may_change[i, j]:
                    continue
                code = 0
                bit = 0
                for row in range(i - 1, i + 2):
                    for column in range(j - 1, j + 2):
                        if row != i or column != j:
                            code |= warped[row, column] << bit
                            bit += 1
                if simple[code]:
                    warped[i, j] = goal[i, j]
                    changed = True
