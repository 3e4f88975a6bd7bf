# SPDX-License-Identifier: Apache-2.0
"""How much the context of a position differs from that of its neighbour, inside regions and across their borders.

Definition:
    A context layer gives each position a vector. The jump between two positions that are neighbours in a row or a
    column is the distance of their vectors, over the root mean square distance of all vectors from their mean, so that
    it does not depend on the layer's scale. Pairs that lie on two sides of a border of a grid of regions are averaged
    apart from the others. C. Li et al., "HDNet", Neurocomputing 447 (2021), tell of pooling pyramids that neighbours in
    two bins get unlike contexts although they look alike; they give no formula.

Shape letters: B batch, C channels, h and w feature height and width, n regions per axis.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from denseg.errors import ShapeError, UsageError

__all__ = ["ContextJump", "context_jump"]


class ContextJump(NamedTuple):
    """Jumps of one context.

    Attributes:
        inside: Mean over neighbours of one region; NaN where there are none.
        across: Mean over neighbours of two regions; NaN where there are none.
        jumps: ``(B, h, w)`` the larger of a position's jumps to the next column and to the next row; 0 at the last.
    """

    inside: float
    across: float
    jumps: NDArray[np.float64]

    @property
    def ratio(self) -> float:
        """``across`` over ``inside``: 1 for a context that knows no grid, infinite for one that is constant inside."""
        if not self.inside > 0:
            return float("inf") if self.across > 0 else float("nan")
        return self.across / self.inside


@torch.no_grad()
def context_jump(context: Tensor, *, bins: int = 6) -> ContextJump:
    """Measure the jumps of a context.

    Args:
        context: ``(B, C, h, w)``, floating point.
        bins: Regions per axis of the grid, n: PSPNet's finest has 6. A position belongs to the region that its index
            times n over the side falls into, as in adaptive pooling.

    Returns:
        The jumps; NaN and zeros where the context is constant.

    Raises:
        ShapeError: ``context`` is not 4-D or not floating point.
        UsageError: ``bins`` is less than 1.
    """
    if context.ndim != 4 or not context.is_floating_point():
        raise ShapeError(
            f"context_jump takes a context (B, C, h, w), floating point, got {context.dtype} {tuple(context.shape)}"
        )
    if bins < 1:
        raise UsageError(f"bins must be at least 1, got {bins}")
    x = context.detach().cpu().double()
    spread = (x - x.mean(dim=(0, 2, 3), keepdim=True)).square().sum(dim=1).mean().sqrt()
    jumps = torch.zeros(x.shape[0], *x.shape[2:], dtype=torch.float64)
    sums = {False: 0.0, True: 0.0}
    counts = {False: 0, True: 0}
    for dim in (2, 3):
        size = x.shape[dim]
        step = (x.narrow(dim, 1, size - 1) - x.narrow(dim, 0, size - 1)).square().sum(dim=1).sqrt() / spread
        region = torch.arange(size) * bins // size
        for crosses in (False, True):
            lines = (region[1:] != region[:-1]) == crosses
            part = step.index_select(dim - 1, lines.nonzero().flatten())
            sums[crosses] += float(part.sum())
            counts[crosses] += part.numel()
        place = jumps.narrow(dim - 1, 0, size - 1)
        torch.maximum(place, step.nan_to_num(), out=place)
    means = {key: sums[key] / counts[key] if counts[key] else float("nan") for key in sums}
    return ContextJump(means[False], means[True], jumps.numpy())
