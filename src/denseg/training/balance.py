# SPDX-License-Identifier: Apache-2.0
"""Rare classes: weights in the loss, and pictures that come more often, from counts of the training pixels.

Letters: N pictures, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from denseg.losses.composite import loss_options

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from denseg.config import TrainConfig

__all__ = ["balance_loss", "class_weights", "repeat_factors"]

ENET_OFFSET = 1.02
"""A. Paszke et al., "ENet", 2016, Section 5.2: weights stay in 1..50."""

MOST_WEIGHT = 50.0
RARE_SHARE = 0.1
MOST_REPEATS = 5.0


def class_weights(kind: str, counts: Sequence[int]) -> tuple[float, ...]:
    """Weigh classes by how rare they are; the mean over the pixels is 1, so that the learning rate keeps its meaning.

    Args:
        kind: ``enet``: ``1 / ln(1.02 + share)`` (Paszke et al. 2016, Section 5.2); ``median``: median share divided by
            the share (Eigen and Fergus 2015, Section 4.3.2, with shares of all pixels); ``sqrt``: the root of that.
        counts: ``(K,)`` labelled pixels of each class.

    Returns:
        ``(K,)``; a class without a pixel gets the weight of the rarest one that has some. All 1 where nothing is
        labelled.
    """
    pixels = np.asarray(counts, dtype=np.float64)
    present = pixels > 0
    if not present.any():
        return (1.0,) * len(pixels)
    share = pixels / pixels.sum()
    share = np.where(present, share, share[present].min())
    if kind == "enet":
        weights = 1.0 / np.log(ENET_OFFSET + share)
    else:
        weights = np.median(share[present]) / share
        if kind == "sqrt":
            weights = np.sqrt(weights)
    weights = np.minimum(weights, MOST_WEIGHT * weights.min())
    weights = weights / float((weights * pixels).sum() / pixels.sum())
    return tuple(round(float(weight), 6) for weight in weights)


def balance_loss(config: TrainConfig, counts: Sequence[int]) -> dict[str, float | dict[str, Any]]:
    """Give the losses that take class weights those that ``train.class_weight`` asks for.

    Args:
        config: The stage's ``train`` section.
        counts: ``(K,)`` labelled pixels of each class in the training split.

    Returns:
        ``train.loss``, with ``class_weight`` where a loss knows it and the recipe gave none.
    """
    if config.class_weight == "none":
        return dict(config.loss)
    weights = list(class_weights(config.class_weight, counts))
    balanced: dict[str, float | dict[str, Any]] = {}
    for name, value in config.loss.items():
        options: dict[str, Any] = dict(value) if isinstance(value, Mapping) else {"weight": value}
        if "class_weight" in loss_options(name):
            options.setdefault("class_weight", weights)
        balanced[name] = options
    return balanced


def repeat_factors(counts: NDArray[np.int64]) -> tuple[float, ...]:
    """Say how often each picture should come, so that rare classes are seen more.

    Repeat factors of A. Gupta et al., "LVIS", CVPR 2019, Section 6: a class seen in the share f of the pictures asks
    for ``max(1, sqrt(0.1 / f))``, and a picture comes as often as its neediest class asks, five times at most.

    Args:
        counts: ``(N, K)`` labelled pixels of each class in each picture.

    Returns:
        ``(N,)`` factors, at least 1.
    """
    seen = counts > 0  # (N, K)
    share = seen.mean(axis=0)  # (K,)
    wanted = [max(1.0, math.sqrt(RARE_SHARE / value)) if value > 0 else 1.0 for value in share.tolist()]
    each = np.where(seen, np.minimum(np.asarray(wanted), MOST_REPEATS), 1.0).max(axis=1, initial=1.0)
    return tuple(float(factor) for factor in each)
