# SPDX-License-Identifier: Apache-2.0
"""Criss-cross attention: every position looks along its row and its column; twice, and it has seen the whole map.

Paper:
    Z. Huang et al., "CCNet: Criss-Cross Attention for Semantic Segmentation", ICCV 2019 and TPAMI 2020.
    https://arxiv.org/abs/1811.11721 - criss-cross attention and its recurrence.
Reference code:
    https://github.com/speedinghzl/CCNet (not copied).
Departures from the paper:
    None known.
Cost:
    h + w weights per position and turn, in two batched matrix products; no copy joins the two directions.

Shape letters: B batch, C channels, D = C // reduction, h and w feature height and width.
"""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor, nn

from denseg.errors import ShapeError, UsageError
from denseg.layers.conv import init_conv

__all__ = ["NO_GRADIENT", "CrissCrossAttention", "criss_cross_attention"]

NO_GRADIENT = MappingProxyType({"key.bias": "adds the same to all scores of a query, which softmax ignores"})


class CrissCrossAttention(nn.Module):
    """Attention along rows and columns, repeated with shared weights.

    Attributes:
        gamma: Residual weight, ``(1,)``; starts at 0, so that the layer starts as the identity.
    """

    def __init__(self, in_channels: int, *, reduction: int = 8, recurrence: int = 2) -> None:
        """Create the three 1x1 projections.

        Args:
            in_channels: Channels of the input and of the output, C.
            reduction: Divides C to give the width D of query and key.
            recurrence: Turns, R; with 2 every position reaches every other.

        Raises:
            UsageError: ``in_channels`` is less than ``reduction``, or ``recurrence`` is less than 1.
        """
        super().__init__()
        if in_channels < reduction:
            raise UsageError(f"in_channels must be at least reduction ({reduction}), got {in_channels}")
        if recurrence < 1:
            raise UsageError(f"recurrence must be at least 1, got {recurrence}")
        self.recurrence = recurrence
        self.query = nn.Conv2d(in_channels, in_channels // reduction, 1)
        self.key = nn.Conv2d(in_channels, in_channels // reduction, 1)
        self.value = nn.Conv2d(in_channels, in_channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))
        for conv in (self.query, self.key, self.value):
            init_conv(conv)

    def forward(self, features: Tensor) -> Tensor:
        """Add to each position the weighted mean over its row and column, R times.

        Args:
            features: ``(B, C, h, w)``, floating point.

        Returns:
            ``(B, C, h, w)``.

        Raises:
            ShapeError: ``features`` is not 4-D.
        """
        if features.ndim != 4:
            raise ShapeError(f"CrissCrossAttention takes features of shape (B, C, h, w), got {tuple(features.shape)}")
        for _ in range(self.recurrence):
            context = criss_cross_attention(self.query(features), self.key(features), self.value(features))
            features = features + self.gamma * context
        return features


def criss_cross_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Average the values of each position's row and column, weighted by the softmax of dot products.

    Args:
        query: ``(B, D, h, w)``, floating point.
        key: ``(B, D, h, w)``.
        value: ``(B, C, h, w)``.

    Returns:
        ``(B, C, h, w)``; the position itself counts once, in its row.
    """
    height = query.shape[2]
    itself = torch.eye(height, dtype=torch.bool, device=query.device)
    # Columns: the batch is (B, w), the sequence h. Rows: the batch is (B, h), the sequence w.
    column_scores = query.permute(0, 3, 2, 1) @ key.permute(0, 3, 1, 2)  # (B, w, h, h)
    column_scores = column_scores.masked_fill(itself, -torch.inf)
    row_scores = query.permute(0, 2, 3, 1) @ key.permute(0, 2, 1, 3)  # (B, h, w, w)
    # One softmax over both: the largest score is only a shift, so that it carries no gradient.
    with torch.no_grad():
        top = torch.maximum(column_scores.amax(dim=-1).transpose(1, 2), row_scores.amax(dim=-1))  # (B, h, w)
    column_weights = (column_scores - top.transpose(1, 2).unsqueeze(-1)).exp()  # (B, w, h, h)
    row_weights = (row_scores - top.unsqueeze(-1)).exp()  # (B, h, w, w)
    total = column_weights.sum(dim=-1).transpose(1, 2) + row_weights.sum(dim=-1)  # (B, h, w)
    columns = column_weights.to(value.dtype) @ value.permute(0, 3, 2, 1)  # (B, w, h, C)
    rows = row_weights.to(value.dtype) @ value.permute(0, 2, 3, 1)  # (B, h, w, C)
    context = columns.permute(0, 3, 2, 1) + rows.permute(0, 3, 1, 2)  # (B, C, h, w)
    return context / total.to(value.dtype).unsqueeze(1)
