# SPDX-License-Identifier: Apache-2.0
"""What a score does depend on, of all that it could: the gradient with respect to the pixels of an image.

Definition:
    Effective receptive field: W. Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural
    Networks", NeurIPS 2016: the absolute gradient of a score with respect to every pixel, summed over bands. Its size
    is the side of the smallest square around the pixel that holds nine tenths of it.

Shape letters: C bands, K classes, H and W image height and width.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from denseg.errors import UsageError
from denseg.inference.tiled import model_parts

__all__ = ["EffectiveField", "effective_field", "score_gradient"]

HELD = 0.9
"""Share of the gradient that the effective field holds."""


class EffectiveField(NamedTuple):
    """What a score does depend on, at one pixel of one image.

    Attributes:
        gradient: ``(H, W)`` float32, the absolute gradient summed over bands, its sum 1.
        size: Side of the square around the pixel that holds nine tenths of it, in pixels.
        row: Of the pixel.
        column: Of the pixel.
    """

    gradient: NDArray[np.float32]
    size: int
    row: int
    column: int


def effective_field(
    model: nn.Module, images: Tensor, *, row: int | None = None, column: int | None = None, label: int | None = None
) -> EffectiveField:
    """Measure what the score of a pixel depends on.

    Args:
        model: A network of ``create_model`` in evaluation mode; its weights gather no gradients.
        images: ``(1, C, H, W)``, normalised, on the model's device.
        row: Of the pixel; the middle if ``None``.
        column: Of the pixel; the middle if ``None``.
        label: Class whose score is followed; the highest there if ``None``.

    Returns:
        The field.

    Raises:
        UsageError: The pixel lies outside of what the model scores, or there is no such class.
    """
    gradient, place = score_gradient(model, images, row=row, column=column, label=label)
    spread = gradient.abs().sum(dim=(0, 1)).double().cpu().numpy()  # (H, W)
    total = spread.sum()
    share = (spread / total if total > 0 else spread).astype(np.float32)
    return EffectiveField(share, _square(share, *place), *place)


def score_gradient(
    model: nn.Module, images: Tensor, *, row: int | None, column: int | None, label: int | None
) -> tuple[Tensor, tuple[int, int]]:
    """Follow one score back to the pixels.

    Args:
        model: A network of ``create_model`` in evaluation mode.
        images: ``(1, C, H, W)``, normalised.
        row: Of the pixel in the image; the middle if ``None``.
        column: Of the pixel in the image; the middle if ``None``.
        label: Class whose score is followed; the highest there if ``None``.

    Returns:
        The gradient, ``(1, C, H, W)``, and the pixel.

    Raises:
        UsageError: The pixel lies outside of what the model scores, or there is no such class.
    """
    parts = model_parts(model)
    height, width = images.shape[-2:]
    margin, classes = parts["geometry"].margin, parts["num_classes"]
    place = (height // 2 if row is None else row, width // 2 if column is None else column)
    if not (margin <= place[0] < height - margin and margin <= place[1] < width - margin):
        raise UsageError(
            f"the pixel {place[0]},{place[1]} lies outside of the {height}x{width} image"
            + (f" less the {margin} pixels of margin" if margin else "")
        )
    if label is not None and not 0 <= label < classes:
        raise UsageError(f"the model has classes 0..{classes - 1}, not {label}")
    needed = [parameter.requires_grad for parameter in model.parameters()]
    inputs = images.detach().clone().requires_grad_()
    try:
        model.requires_grad_(False)
        with torch.enable_grad():
            scores = model(inputs).logits[0, :, place[0] - margin, place[1] - margin]  # (K,)
            chosen = int(scores.argmax()) if label is None else label
            (gradient,) = torch.autograd.grad(scores[chosen], inputs)
    finally:
        for parameter, learns in zip(model.parameters(), needed, strict=True):
            parameter.requires_grad_(learns)
    return gradient, place


def _square(share: NDArray[np.float32], row: int, column: int) -> int:
    """Find the smallest odd square around a pixel that holds enough."""
    rows, columns = np.indices(share.shape)
    ring = np.maximum(np.abs(rows - row), np.abs(columns - column))
    held = np.cumsum(np.bincount(ring.ravel(), share.ravel().astype(np.float64)))
    if not held[-1] > 0:
        return 0
    return 2 * int(np.searchsorted(held, HELD * held[-1])) + 1
