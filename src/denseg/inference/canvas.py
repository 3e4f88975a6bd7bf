# SPDX-License-Identifier: Apache-2.0
"""Whole images of any size through a model: the one place that decides what a model sees around an image.

The canvas is the image, padded at bottom and right to the model's stride with mean pixels (0 after normalisation, as
training does outside an image). A model whose result is smaller than its input (``geometry.margin``) sees the image
mirrored around. Training's validation, the predictor and tiled inference agree because all of them mean this canvas.

Shape letters: B batch, C bands, K classes, H and W image height and width.
"""

from __future__ import annotations

from torch import Tensor, nn

from denseg.inference.strategy import fit_size
from denseg.ops import pad_to_multiple, reflect_pad
from denseg.types import Geometry, SegmentationOutput

__all__ = ["fit_size", "run_on_canvas"]


def run_on_canvas(model: nn.Module, images: Tensor, geometry: Geometry) -> SegmentationOutput:
    """Score whole images.

    Args:
        model: The network, in the mode and on the device that the caller wants.
        images: ``(B, C, H, W)``, normalised, any H and W >= 1.
        geometry: The model's.

    Returns:
        The output with its logits ``(B, K, H, W)``; the rest as the model gave it.
    """
    height, width = images.shape[-2:]
    if geometry.margin or geometry.size_step > 1:
        bottom = fit_size(height + 2 * geometry.margin, geometry) - height - geometry.margin
        right = fit_size(width + 2 * geometry.margin, geometry) - width - geometry.margin
        canvas = reflect_pad(images, (geometry.margin, right, geometry.margin, bottom))
    else:
        canvas = pad_to_multiple(images, geometry.total_stride)
    output: SegmentationOutput = model(canvas)
    logits = output.logits
    if logits.shape[-2:] != (height, width):
        logits = logits[..., :height, :width]
    return output._replace(logits=logits)
