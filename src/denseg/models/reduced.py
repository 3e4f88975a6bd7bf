# SPDX-License-Identifier: Apache-2.0
"""A network that works on a smaller picture: averaged on the way in, its scores enlarged on the way out.

Halving height and width costs a quarter of the time. Where time is short, many passes over small pictures beat few over
large ones; the planner of ``denseg train --budget`` chooses so. The reduction is a part of the model, so prediction,
tiles, export and checkpoints need to know nothing of it.

Shape letters: B batch, C image bands, K classes, H and W image height and width, r the reduction.
"""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from denseg.errors import UnsupportedError, UsageError
from denseg.models.interface import SegmentationModel
from denseg.ops import resize
from denseg.types import SegmentationOutput

__all__ = ["REDUCTIONS", "ReducedInput"]

REDUCTIONS = (2, 3, 4)


class ReducedInput(SegmentationModel):
    """A model that sees the mean of each ``r x r`` block of pixels.

    Attributes:
        network: The model inside.
        reduction: r.
    """

    def __init__(self, network: SegmentationModel, *, reduction: int) -> None:
        """Wrap a model.

        Args:
            network: A model that takes images of any size.
            reduction: 2, 3 or 4.

        Raises:
            UsageError: Another reduction.
            UnsupportedError: The model takes only some sizes, or gives scores smaller than the image.
        """
        super().__init__()
        if reduction not in REDUCTIONS:
            raise UsageError(f"reduction is 2, 3 or 4, got {reduction!r}")
        geometry = network.geometry
        if geometry.margin or geometry.size_step != 1:
            raise UnsupportedError("a form that takes only some image sizes has no reduction; leave reduction out")
        self.network = network
        self.reduction = reduction
        self.num_classes = network.num_classes
        self.in_channels = network.in_channels
        self.geometry = replace(
            geometry,
            score_stride=geometry.score_stride * reduction,
            total_stride=geometry.total_stride * reduction,
            min_size=1 if geometry.min_size == 1 else geometry.min_size * reduction,
        )

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel.

        Args:
            images: ``(B, C, H, W)``, floating point, any size.

        Returns:
            Scores of the image's size; ``heatmap`` and ``features`` are those of the model inside.
        """
        size = (images.shape[-2], images.shape[-1])
        small = F.avg_pool2d(images, self.reduction, ceil_mode=True, count_include_pad=False)  # (B, C, H / r, W / r)
        output: SegmentationOutput = self.network(small)
        aux = tuple(self._enlarge(scores, size) for scores in output.aux_logits)
        return output._replace(logits=self._enlarge(output.logits, size), aux_logits=aux)

    def _enlarge(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Bring ``(B, K, H / r, W / r)`` to ``(B, K, H, W)``; a block's score stays at its centre at every border."""
        whole = (scores.shape[-2] * self.reduction, scores.shape[-1] * self.reduction)
        return resize(scores, whole)[..., : size[0], : size[1]]
