# SPDX-License-Identifier: Apache-2.0
"""Hybrid distance relation: how like its surroundings each position is, at several distances.

Paper:
    C. Li, W. Kang, S. Zhu, X. Ye, Z. Feng, Y. Ming, "HDNet: Hybrid Distance Network for semantic segmentation",
    Neurocomputing 447 (2021) 129-144. https://doi.org/10.1016/j.neucom.2021.02.045 - R_k(i, j) = F(x_ij, A_k(x_ij)).
Reference code:
    https://github.com/Anstarc/HDNet (not copied; it has no licence).
Departures from the paper:
    Windows are clipped at the border of the map: the released code's padding function is missing. For averages and
    the cosine this changes nothing. ``rings`` and ``aggregate="atrous"`` follow the paper's remarks, not its code.
    The Euclidean relation is the negative distance, so that larger means more alike for all three.
Cost:
    A few additions, comparisons and products per channel, position and window, whatever the window's size; no
    position is compared with every other.

Shape letters: B batch, C channels, h and w feature height and width, n windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from denseg.errors import UsageError
from denseg.ops.pyramid import average_pool_pyramid, box_sum_pyramid, check_windows, max_pool_pyramid, window_counts

__all__ = ["Distance", "HybridDistanceRelation", "Pool", "hybrid_distance_relation"]

Distance = Literal["cosine", "dot", "euclidean"]
Pool = Literal["avg", "max"]

_EPSILON = 1e-8  # as in cosine_similarity: a zero vector is like nothing


class HybridDistanceRelation(nn.Module):
    """The relations of each position with the average and the maximum of windows around it. No parameters.

    Attributes:
        out_channels: Maps that come out: pools times windows.
    """

    def __init__(
        self,
        *,
        windows: Sequence[int] = (3, 5, 7, 9, 11, 15, 19),
        pools: Sequence[Pool] = ("avg", "max"),
        distance: Distance = "cosine",
        aggregate: Literal["pool", "atrous"] = "pool",
        rings: bool = False,
    ) -> None:
        """Keep the options.

        Args:
            windows: Odd sides of the windows, in positions; larger than the map is legal.
            pools: How a window becomes one vector.
            distance: How two vectors are compared.
            aggregate: ``pool`` takes every position of the window, ``atrous`` the nine taps of a 3x3 kernel dilated
                to the window's side.
            rings: Compare with what lies between a window and the next smaller one, a relation with a hole.

        Raises:
            UsageError: An option is unknown, a window is not odd, or rings are asked of atrous taps.
        """
        super().__init__()
        _check_options(windows, pools, distance, aggregate, rings=rings)
        self.windows = tuple(windows)
        self.pools: tuple[Pool, ...] = tuple(pools)
        self.distance: Distance = distance
        self.aggregate: Literal["pool", "atrous"] = aggregate
        self.rings = rings
        self.out_channels = len(self.pools) * len(self.windows)

    def forward(self, features: Tensor) -> Tensor:
        """Relate every position to its surroundings.

        Args:
            features: ``(B, C, h, w)``, floating point.

        Returns:
            ``(B, len(pools) * n, h, w)``: all windows of the first pool, then all of the next. Cosines are in -1..1.
            A ring that lies outside the map gives 0.
        """
        return hybrid_distance_relation(
            features,
            windows=self.windows,
            pools=self.pools,
            distance=self.distance,
            aggregate=self.aggregate,
            rings=self.rings,
        )

    def extra_repr(self) -> str:
        """Name the options in ``print(layer)``."""
        return (
            f"windows={self.windows}, pools={self.pools}, distance={self.distance!r}, "
            f"aggregate={self.aggregate!r}, rings={self.rings}"
        )


def hybrid_distance_relation(
    features: Tensor,
    *,
    windows: Sequence[int],
    pools: Sequence[Pool] = ("avg", "max"),
    distance: Distance = "cosine",
    aggregate: Literal["pool", "atrous"] = "pool",
    rings: bool = False,
) -> Tensor:
    """Compute the relations that ``HybridDistanceRelation`` gives; see there.

    Args:
        features: ``(B, C, h, w)``, floating point; half precision is computed in float32.
        windows: Odd sides of the windows, in positions.
        pools: ``avg`` and ``max``, in the order of the maps.
        distance: ``cosine``, ``dot`` or ``euclidean``.
        aggregate: ``pool`` or ``atrous``.
        rings: Leave out the next smaller window.

    Returns:
        ``(B, len(pools) * n, h, w)``, of the input's dtype.

    Raises:
        ShapeError: ``features`` is not 4-D or not floating point.
        UsageError: An option is unknown, a window is not odd, or rings are asked of atrous taps.
    """
    check_windows(features, windows)
    _check_options(windows, pools, distance, aggregate, rings=rings)
    x = features if features.dtype == torch.float64 else features.float()
    unit = F.normalize(x, dim=1, eps=_EPSILON) if distance == "cosine" else x
    maps = []
    for pool in pools:
        if aggregate == "atrous":
            contexts = tuple(_atrous(x, window // 2, pool) for window in windows)
        elif rings:
            contexts = _ring_sums(x, windows, distance) if pool == "avg" else _ring_maxima(x, windows)
        elif pool == "max":
            contexts = max_pool_pyramid(x, windows)
        elif distance == "cosine":  # the length does not matter, so that sums serve as averages
            contexts = box_sum_pyramid(x, windows)
        else:
            contexts = average_pool_pyramid(x, windows)
        maps += [_relate(context, unit, distance) for context in contexts]
    return torch.stack(maps, dim=1).to(features.dtype)  # (B, len(pools) * n, h, w)


def _relate(context: Tensor, x: Tensor, distance: Distance) -> Tensor:
    """Compare ``(B, C, h, w)`` contexts with the positions themselves (of unit length for the cosine)."""
    if distance == "euclidean":
        return -(context - x).square().sum(dim=1).clamp_min(_EPSILON**2).sqrt()  # (B, h, w)
    if distance == "dot":
        return (context * x).sum(dim=1)  # (B, h, w)
    if torch.compiler.is_exporting() or torch.compiler.is_compiling():
        return _cosine(context, x)[0]
    relation: Tensor = _Cosine.apply(context, x)
    return relation


def _cosine(context: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """Give the cosine of contexts with unit vectors, ``(B, h, w)``, and one over the contexts' lengths."""
    inverse = context.square().sum(dim=1).clamp_min(_EPSILON**2).rsqrt()
    return (context * unit).sum(dim=1) * inverse, inverse


class _Cosine(torch.autograd.Function):
    """``_cosine`` with a gradient of three passes over the map where autograd takes seven."""

    @staticmethod
    def forward(ctx: Any, context: Tensor, unit: Tensor) -> Tensor:
        cosine, inverse = _cosine(context, unit)
        ctx.save_for_backward(context, unit, cosine, inverse)
        return cosine

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        context, unit, cosine, inverse = ctx.saved_tensors
        along = (grad * inverse).unsqueeze(1)  # (B, 1, h, w)
        # The length grows with the context, except where it counts as the smallest one.
        shrink = torch.where(inverse < 0.999 / _EPSILON, grad * cosine * inverse.square(), 0.0).unsqueeze(1)
        return torch.addcmul(unit * along, context, shrink, value=-1), context * along


def _smaller(windows: Sequence[int]) -> dict[int, int]:
    """Give the next smaller window of each; the smallest has the position itself."""
    ordered = sorted(set(windows))
    return dict(zip(ordered, [1, *ordered[:-1]], strict=True))


def _ring_sums(x: Tensor, windows: Sequence[int], distance: Distance) -> tuple[Tensor, ...]:
    smaller = _smaller(windows)
    everything = sorted({*smaller, *smaller.values()})
    sums = dict(zip(everything, box_sum_pyramid(x, everything, precise=distance != "cosine"), strict=True))
    rings = []
    for window in windows:
        count = window_counts(x, window) - window_counts(x, smaller[window])  # (h, w)
        ring = (sums[window] - sums[smaller[window]]) * (count > 0)  # exactly 0 where the ring lies outside
        rings.append(ring if distance == "cosine" else ring / count.clamp(min=1))
    return tuple(rings)


def _ring_maxima(x: Tensor, windows: Sequence[int]) -> tuple[Tensor, ...]:
    """Take the maximum over the four strips (above, below, left, right) that make a ring."""
    height, width = x.shape[2:]
    smaller = _smaller(windows)
    rings = []
    for window in windows:
        outer, inner = window // 2, smaller[window] // 2
        thick, far = outer - inner, outer + inner + 1
        if thick == 0:  # a window of one position has no surroundings
            rings.append(torch.zeros_like(x))
            continue
        grown = F.pad(x, (outer, outer, outer, outer), value=-torch.inf)
        rows = F.max_pool2d(grown, (thick, window), stride=1)  # (B, C, h + 2 outer - thick + 1, w)
        columns = F.max_pool2d(grown, (2 * inner + 1, thick), stride=1)[:, :, thick : thick + height]
        vertical = torch.maximum(rows[:, :, :height], rows[:, :, far : far + height])
        horizontal = torch.maximum(columns[..., :width], columns[..., far : far + width])
        ring = torch.maximum(vertical, horizontal)
        rings.append(ring.masked_fill(ring == -torch.inf, 0.0))
    return tuple(rings)


def _atrous(x: Tensor, radius: int, pool: Pool) -> Tensor:
    """Aggregate the nine taps of a dilated 3x3 kernel, those outside the map left out."""
    height, width = x.shape[2:]
    grown = F.pad(x, (radius,) * 4, value=0.0 if pool == "avg" else -torch.inf)
    taps = [
        grown[:, :, row : row + height, column : column + width]
        for row in (0, radius, 2 * radius)
        for column in (0, radius, 2 * radius)
    ]
    result = taps[0]
    for tap in taps[1:]:
        result = result + tap if pool == "avg" else torch.maximum(result, tap)
    if pool == "max":
        return result
    inside = F.pad(x.new_ones(height, width), (radius,) * 4)
    count = sum(
        inside[row : row + height, column : column + width]
        for row in (0, radius, 2 * radius)
        for column in (0, radius, 2 * radius)
    )
    return result / count


def _check_options(windows: Sequence[int], pools: Sequence[str], distance: str, aggregate: str, *, rings: bool) -> None:
    if not windows or any(window < 1 or window % 2 == 0 for window in windows):
        raise UsageError(f"windows must be odd and positive, so that they have a centre; got {list(windows)}")
    if not pools or any(pool not in {"avg", "max"} for pool in pools):
        raise UsageError(f"pools are 'avg' and 'max', got {list(pools)}")
    if distance not in {"cosine", "dot", "euclidean"}:
        raise UsageError(f"distance is 'cosine', 'dot' or 'euclidean', got {distance!r}")
    if aggregate not in {"pool", "atrous"}:
        raise UsageError(f"aggregate is 'pool' or 'atrous', got {aggregate!r}")
    if rings and aggregate == "atrous":
        raise UsageError("rings are the difference of two windows; with aggregate='atrous' there is none")
