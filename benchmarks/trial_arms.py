# SPDX-License-Identifier: Apache-2.0
"""The arms of the trial: which network is trained with which loss, and what is done to its labels afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["ARMS", "Arm", "majority_filter"]

Post = Callable[[NDArray[np.float32], NDArray[np.uint8]], NDArray[np.int64]]
"""From ``(K, H, W)`` probabilities and the ``(H, W, C)`` image to ``(H, W)`` labels."""


@dataclass(frozen=True)
class Arm:
    """One way to get labels.

    Attributes:
        model: Catalog name.
        options: Options of the model.
        loss: ``train.loss``.
        base: Arm whose trained network this one shares; nothing is trained for it.
        post: What makes labels of the probabilities; the largest where ``None``.
    """

    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, float] = field(default_factory=lambda: {"cross_entropy": 1.0})
    base: str = ""
    post: Post | None = None


def majority_filter(
    probabilities: NDArray[np.float32], image: NDArray[np.uint8], *, side: int = 5
) -> NDArray[np.int64]:
    """Give each pixel the label that most pixels of a window have: smoothing without any idea of context.

    Args:
        probabilities: ``(K, H, W)``.
        image: Not looked at.
        side: Of the window, in pixels.

    Returns:
        ``(H, W)`` labels; of equally frequent ones the smallest.
    """
    labels = probabilities.argmax(axis=0)
    votes = [ndimage.uniform_filter((labels == k).astype(np.float64), side) for k in range(len(probabilities))]
    return np.stack(votes).round(6).argmax(axis=0)


def crf(probabilities: NDArray[np.float32], image: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Smooth along the image's edges with DeepLab's dense CRF."""
    from denseg.inference import dense_crf

    rgb = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    return np.asarray(dense_crf(probabilities, rgb, preset="deeplab_v2")).argmax(axis=0)


_HFD = {"cross_entropy": 1.0, "hfd": 0.1}  # the paper's weight

ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "fcn": Arm("fcn"),
        "fcn + 5x5 majority": Arm(base="fcn", post=majority_filter),
        "fcn + CRF": Arm(base="fcn", post=crf),
        "fcn, CE + Dice": Arm("fcn", loss={"cross_entropy": 1.0, "dice": 1.0}),
        "fcn, CE + Lovász": Arm("fcn", loss={"cross_entropy": 1.0, "lovasz": 1.0}),
        "fcn, CE + HFD": Arm("fcn", loss=_HFD),
        "deeplab_v3": Arm("deeplab_v3"),
        "pspnet": Arm("pspnet"),
        "nonlocal": Arm("nonlocal"),
        "danet": Arm("danet"),
        "ccnet": Arm("ccnet"),
        "emanet": Arm("emanet"),
        "hdnet": Arm("hdnet", loss=_HFD),
        "hdnet without LAA": Arm("hdnet", options={"attention": False}, loss=_HFD),
        "hdnet without HFD": Arm("hdnet"),
        "hdnet without both": Arm("hdnet", options={"attention": False}),
        "hdnet, CE + Dice": Arm("hdnet", loss={"cross_entropy": 1.0, "dice": 1.0}),
        "hdnet, CE + Lovász": Arm("hdnet", loss={"cross_entropy": 1.0, "lovasz": 1.0}),
    }
)
