# SPDX-License-Identifier: Apache-2.0
"""Dense attention that never holds the whole N x M matrix of weights.

Where the value is as wide as query and key, torch's fused kernel does it. Elsewhere rows are taken in chunks, and in
training each chunk is computed again for its gradient.

Shape letters: B batch, N queries, M keys, D width of query and key, E width of the value.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from denseg.errors import ShapeError

__all__ = ["dense_attention"]

_CHUNK_ELEMENTS = 2**23
"""Weights held at once: 32 MiB in float32."""


def dense_attention(query: Tensor, key: Tensor, value: Tensor, *, scale: float = 1.0) -> Tensor:
    """Average the values, weighted by the softmax of scaled dot products.

    Args:
        query: ``(B, N, D)``, floating point.
        key: ``(B, M, D)``.
        value: ``(B, M, E)``.
        scale: Factor of the dot products.

    Returns:
        ``(B, N, E)``.

    Raises:
        ShapeError: The three do not fit each other.
    """
    shapes = tuple(query.shape), tuple(key.shape), tuple(value.shape)
    if any(len(shape) != 3 for shape in shapes) or shapes[0][2] != shapes[1][2] or shapes[1][:2] != shapes[2][:2]:
        raise ShapeError(
            f"attention takes query (B, N, D), key (B, M, D) and value (B, M, E), got {', '.join(map(str, shapes))}"
        )
    if torch.compiler.is_exporting():
        return _attend(query, key, value, scale)
    if query.shape[2] == value.shape[2]:
        # One head; the CPU kernel takes contiguous rows only, and falls back to the full matrix for others.
        one_head, keys, values = (part.contiguous().unsqueeze(1) for part in (query, key, value))
        return F.scaled_dot_product_attention(one_head, keys, values, scale=scale).squeeze(1)  # (B, N, E)
    rows = max(1, _CHUNK_ELEMENTS // max(1, query.shape[0] * key.shape[1]))
    if rows >= query.shape[1]:
        return _attend(query, key, value, scale)
    learns = torch.is_grad_enabled() and any(part.requires_grad for part in (query, key, value))
    chunks = []
    for chunk in torch.split(query, rows, dim=1):
        if learns:
            chunks.append(checkpoint(_attend, chunk, key, value, scale, use_reentrant=False))
        else:
            chunks.append(_attend(chunk, key, value, scale))
    return torch.cat(chunks, dim=1)  # (B, N, E)


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    weights = torch.softmax(scale * query @ key.transpose(1, 2), dim=-1)  # (B, N, M), each row sums to 1
    return weights.to(value.dtype) @ value
