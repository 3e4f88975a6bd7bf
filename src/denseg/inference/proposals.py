# SPDX-License-Identifier: Apache-2.0
"""Scores of an image from windows of many sizes, each warped to the network's own: how DeconvNet is meant to be used.

Paper:
    H. Noh, S. Hong, B. Han, "Learning Deconvolution Network for Semantic Segmentation", ICCV 2015.
    https://arxiv.org/abs/1505.04366 - Section 4.3.
Departures from the paper:
    Windows come from any source; by default they slide at several sizes. The paper takes the 50 best of 2000 windows of
    an object detector (edge boxes).

Shape letters: C bands, K classes, H and W image height and width, S side of the network's windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from denseg.errors import ShapeError, UsageError
from denseg.ops import resize

__all__ = ["Box", "predict_windows", "sliding_boxes"]


class Box(NamedTuple):
    """A window of an image, in pixels; it may reach outside."""

    top: int
    left: int
    height: int
    width: int


Proposals = Callable[[Tensor], Iterable[Box]]
"""From an image ``(C, H, W)`` to windows, the best first."""


def sliding_boxes(image: Tensor, *, scales: tuple[int, ...] = (1, 2, 3, 4)) -> list[Box]:
    """Give the whole image, then windows of a half, a third, a quarter of its sides that overlap by half.

    Args:
        image: ``(C, H, W)``.
        scales: Parts that the sides are divided into.

    Returns:
        The windows, largest first: 1, 9, 25 and 49 of them.
    """
    height, width = image.shape[-2:]
    boxes = []
    for scale in scales:
        tall, wide = -(-height // scale), -(-width // scale)
        steps = 2 * scale - 1
        for row in range(steps):
            for column in range(steps):
                top = round(row * (height - tall) / max(1, steps - 1))
                left = round(column * (width - wide) / max(1, steps - 1))
                boxes.append(Box(top, left, tall, wide))
    return boxes


@torch.inference_mode()
def predict_windows(
    model: nn.Module,
    image: Tensor,
    *,
    proposals: Proposals | Iterable[Box] = sliding_boxes,
    limit: int = 50,
    side: int = 224,
    min_side: int = 1,
) -> Tensor:
    """Score an image as the pixelwise maximum over windows, from 0 up, as the released code does.

    Each window is cut out of the image padded with zeros, resized to ``side`` x ``side``, scored, and its scores are
    resized back.

    Args:
        model: In evaluation mode; gives a ``SegmentationOutput``.
        image: ``(C, H, W)``, normalised.
        proposals: Windows, the best first, or what finds them in an image.
        limit: How many of them are used; the paper's 50.
        side: Of the network's windows, in pixels.
        min_side: Windows with a shorter side are skipped; the released code takes 112.

    Returns:
        ``(K, H, W)`` scores, at least 0; ``softmax`` gives what the paper hands to its CRF.

    Raises:
        ShapeError: The image is not ``(C, H, W)``.
        UsageError: The model is in training mode, or no window is left.
    """
    if image.ndim != 3:
        raise ShapeError(f"predict_windows takes one image (C, H, W), got {tuple(image.shape)}")
    if model.training:
        raise UsageError("inference needs the model in evaluation mode; call model.eval() first")
    height, width = image.shape[-2:]
    found = proposals(image) if callable(proposals) else proposals
    boxes = [box for box in found if min(box.height, box.width) >= min_side and _meets(box, height, width)][:limit]
    if not boxes:
        raise UsageError(f"no window of at least {min_side} pixels a side meets the image of {height}x{width}")
    parts = []
    for box in boxes:
        scores = resize(model(resize(_cut(image, box)[None], (side, side))).logits, (box.height, box.width))[0]
        parts.append((box, scores))
    whole = parts[0][1].new_zeros(parts[0][1].shape[0], height, width)
    for box, scores in parts:
        top, left = max(0, box.top), max(0, box.left)
        bottom, right = min(height, box.top + box.height), min(width, box.left + box.width)
        part = whole[:, top:bottom, left:right]
        inside = scores[:, top - box.top : bottom - box.top, left - box.left : right - box.left]
        part.copy_(torch.maximum(part, inside))
    return whole


def _meets(box: Box, height: int, width: int) -> bool:
    return box.top < height and box.left < width and box.top + box.height > 0 and box.left + box.width > 0


def _cut(image: Tensor, box: Box) -> Tensor:
    """Cut a window out of an image that zeros surround."""
    height, width = image.shape[-2:]
    window = image.new_zeros(image.shape[0], box.height, box.width)
    top, left = max(0, box.top), max(0, box.left)
    bottom, right = min(height, box.top + box.height), min(width, box.left + box.width)
    window[:, top - box.top : bottom - box.top, left - box.left : right - box.left] = image[:, top:bottom, left:right]
    return window
