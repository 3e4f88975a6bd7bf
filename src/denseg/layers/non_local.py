# SPDX-License-Identifier: Apache-2.0
"""Non-local block: the response at a position is a weighted sum over all positions.

Paper:
    X. Wang, R. Girshick, A. Gupta, K. He, "Non-local Neural Networks", CVPR 2018. https://arxiv.org/abs/1711.07971 -
    Section 3: the four pairwise functions, the residual block, its 2x2 subsampling.
Reference code:
    https://github.com/facebookresearch/video-nonlocal-net (not copied).
Departures from the paper:
    ``scale`` divides dot products by sqrt(D) before the softmax, as the authors' code does.
Cost:
    Time grows with (h * w) ** 2 for the two Gaussian forms, whose weights are never held whole. The dot product is
    linear in h * w by associativity, and the concatenation by sorting: ReLU(a_i + b_j) sums over the j with b_j > -a_i.

Shape letters: B batch, C channels, D = C // reduction, h and w feature height and width, N and M positions before and
after subsampling.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseg.errors import ShapeError, UsageError
from denseg.layers.norm import BatchNorm2d
from denseg.ops.attention import dense_attention

__all__ = ["NO_GRADIENT", "NonLocal", "concatenation_sum"]

NO_GRADIENT = MappingProxyType(
    {
        "phi.bias": "adds the same to all scores of a query, which softmax ignores",
        "g.bias": "passes the weighted mean as a constant, which batch norm subtracts (the two Gaussian forms)",
    }
)

Pairwise = Literal["embedded_gaussian", "gaussian", "dot_product", "concatenation"]


class NonLocal(nn.Module):
    """The residual non-local block; starts as the identity."""

    def __init__(
        self,
        in_channels: int,
        *,
        reduction: int = 2,
        pairwise: Pairwise = "embedded_gaussian",
        scale: bool = True,
        subsample: bool = False,
    ) -> None:
        """Create the projections that the pairwise function has.

        Args:
            in_channels: Channels of the input and of the output, C.
            reduction: Divides C to give the width D.
            pairwise: ``embedded_gaussian``, ``gaussian`` (on the features themselves), ``dot_product`` or
                ``concatenation``.
            scale: Divide dot products by the square root of their width; of the two Gaussian forms.
            subsample: Halve the map that keys and values are taken from, by 2x2 maximum pooling.

        Raises:
            UsageError: ``in_channels`` is less than ``reduction``, or ``pairwise`` is unknown.
        """
        super().__init__()
        if in_channels < reduction:
            raise UsageError(f"in_channels must be at least reduction ({reduction}), got {in_channels}")
        if pairwise not in {"embedded_gaussian", "gaussian", "dot_product", "concatenation"}:
            known = "embedded_gaussian, gaussian, dot_product, concatenation"
            raise UsageError(f"pairwise is one of {known}; got {pairwise!r}")
        width = in_channels // reduction
        self.pairwise = pairwise
        self.scale = scale
        self.subsample = subsample
        self.g = nn.Conv2d(in_channels, width, 1)
        self.theta = nn.Conv2d(in_channels, width, 1) if pairwise != "gaussian" else None
        self.phi = nn.Conv2d(in_channels, width, 1) if pairwise != "gaussian" else None
        self.concatenate = nn.Linear(2 * width, 1, bias=False) if pairwise == "concatenation" else None
        self.output = nn.Conv2d(width, in_channels, 1, bias=False)
        self.norm = BatchNorm2d(in_channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.zeros_(self.norm.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Add to each position its weighted sum over all positions.

        Args:
            features: ``(B, C, h, w)``, floating point.

        Returns:
            ``(B, C, h, w)``.

        Raises:
            ShapeError: ``features`` is not 4-D.
        """
        if features.ndim != 4:
            raise ShapeError(f"NonLocal takes features of shape (B, C, h, w), got {tuple(features.shape)}")
        query = features if self.theta is None else self.theta(features)
        key = features if self.phi is None else self.phi(features)
        value: Tensor = self.g(features)
        if self.subsample:  # ceil mode keeps a map of one position
            key, value = (F.max_pool2d(part, 2, ceil_mode=True) for part in (key, value))
        rows = (part.flatten(2).transpose(1, 2) for part in (query, key, value))  # (B, N, D), (B, M, D), (B, M, D)
        context = self._gather(*rows).transpose(1, 2)  # (B, D, N)
        context = context.reshape(value.shape[:2] + features.shape[2:])  # (B, D, N) -> (B, D, h, w)
        projected: Tensor = self.norm(self.output(context))  # (B, C, h, w)
        return features + projected

    def _gather(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.pairwise in {"embedded_gaussian", "gaussian"}:
            return dense_attention(query, key, value, scale=query.shape[2] ** -0.5 if self.scale else 1.0)
        if self.concatenate is None:
            return query @ (key.transpose(1, 2) @ value / key.shape[1])  # (B, N, D), never N x M
        first, second = self.concatenate.weight[0].chunk(2)  # the product with [theta, phi] is a sum of two
        return concatenation_sum(query @ first, key @ second, value)


def concatenation_sum(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute the mean over j of ReLU(query_i + key_j) value_j without the N x M matrix.

    Args:
        query: ``(B, N)``, floating point.
        key: ``(B, M)``.
        value: ``(B, M, D)``.

    Returns:
        ``(B, N, D)``.
    """
    ordered, index = key.sort(dim=1)  # ascending
    values = value.gather(1, index.unsqueeze(-1).expand_as(value))
    sums = torch.cat([values, ordered.unsqueeze(-1) * values], dim=2)  # (B, M, 2D)
    suffix = F.pad(sums.flip(1).cumsum(dim=1).flip(1), (0, 0, 0, 1))  # (B, M + 1, 2D), the sum from each j on
    first = torch.searchsorted(ordered.detach(), -query.detach(), right=True)  # (B, N), first j with key_j > -query_i
    plain, weighted = suffix.gather(1, first.unsqueeze(-1).expand(-1, -1, suffix.shape[2])).chunk(2, dim=2)
    return (query.unsqueeze(-1) * plain + weighted) / key.shape[1]
