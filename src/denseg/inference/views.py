# SPDX-License-Identifier: Apache-2.0
"""Testing on several views of an image: scales, left-right flips, quarter turns.

As the papers do it: the image is resized, its logits are brought back to the image's grid, softmax, mean over the
views. The mean is taken inside, so that what comes out is one function of the image like a model: its reach is
measured and it is tiled like any other. For that the views must lie alike on every tile, hence a coarser multiple: at
a scale of 3/4 a window of 4 strides becomes 3.

Shape letters: B batch, C bands, K classes, H and W image height and width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import lcm

import torch
from torch import Tensor, nn

from denseg.errors import UsageError
from denseg.ops import resize
from denseg.types import Geometry

__all__ = ["Views"]

FINEST = 20
"""Largest denominator of a scale: 1.05 is 21/20."""


class Views(nn.Module):
    """A model seen through several views; gives probabilities.

    Attributes:
        model: The network.
        scales: As fractions.
        flip: Whether each scale is seen mirrored left to right, too.
        turns: Whether each is seen at all four quarter turns.
        multiple: Sides that the images must be multiples of.
    """

    def __init__(
        self,
        model: nn.Module,
        geometry: Geometry,
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        turns: bool = False,
    ) -> None:
        """Choose the views.

        Args:
            model: The network, in evaluation mode.
            geometry: The network's.
            scales: Positive factors, for example 0.5, 1 and 1.5.
            flip: Also mirror left to right.
            turns: Also turn by 90, 180 and 270 degrees.

        Raises:
            UsageError: No scale or one out of range, or scales for a model that takes sizes of its own only.
        """
        super().__init__()
        for scale in scales:
            if not 0.1 <= scale <= 8:
                raise UsageError(f"a scale must be between 0.1 and 8, got {scale:g}")
        if not scales:
            raise UsageError("give at least one scale; 1 is the image's own size")
        self.model = model
        self.scales = tuple(dict.fromkeys(Fraction(scale).limit_denominator(FINEST) for scale in scales))
        if geometry.margin and any(scale != 1 for scale in self.scales):
            raise UsageError("a model whose result is smaller than its input cannot be tested at several scales; use 1")
        self.flip = flip
        self.turns = turns
        self.multiple = geometry.total_stride * lcm(*(scale.denominator for scale in self.scales))

    @property
    def count(self) -> int:
        """How many views there are."""
        return len(self.scales) * (2 if self.flip else 1) * (4 if self.turns else 1)

    def forward(self, images: Tensor) -> Tensor:
        """Average the probabilities of all views.

        Args:
            images: ``(B, C, H, W)``, H and W multiples of ``multiple`` (a model with a margin: a size that it takes).

        Returns:
            ``(B, K, H, W)``, the sum over K is 1 (a model with a margin: its own size).

        Raises:
            UsageError: There is no scale.
        """
        total: Tensor | None = None
        for probabilities in self._each(images):
            total = probabilities if total is None else total + probabilities
        if total is None:
            raise UsageError("give at least one scale; 1 is the image's own size")
        return total / self.count

    def variance(self, images: Tensor) -> Tensor:
        """Say where the views disagree.

        Args:
            images: As for :meth:`forward`.

        Returns:
            ``(B, 1, H, W)``: the variance of the probabilities over the views, summed over the classes; 0 to 1.
        """
        views = torch.stack(list(self._each(images)))  # (V, B, K, H, W)
        return views.var(dim=0, correction=0).sum(dim=1, keepdim=True)

    def _each(self, images: Tensor) -> Iterator[Tensor]:
        """The probabilities of each view, back on the image's grid."""
        height, width = images.shape[-2:]
        for scale in self.scales:
            scaled = resize(images, (int(height * scale), int(width * scale)))
            for quarter in range(4 if self.turns else 1):
                for mirrored in (False, True) if self.flip else (False,):
                    view = torch.rot90(scaled, quarter, (2, 3))
                    view = view.flip(3) if mirrored else view
                    logits: Tensor = self.model(view).logits
                    logits = logits.flip(3) if mirrored else logits
                    logits = torch.rot90(logits, -quarter, (2, 3))
                    if scale != 1:
                        logits = resize(logits, (height, width))
                    yield logits.softmax(dim=1)
