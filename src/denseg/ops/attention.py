# SPDX-License-Identifier: Apache-2.0
"""Dense attention that never holds the whole N x M matrix of weights.

Where the value is as wide as query and key, torch's fused kernel does it. Elsewhere rows are taken in chunks, and in
training each chunk is computed again for its gradient.

Shape letters: B batch, N queries, M keys, D width of query and key, E width of the value.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
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
    whole = {part.dtype for part in (query, key, value)} in ({torch.float32}, {torch.float64})
    if whole and value.device.type != "meta" and not torch.compiler.is_compiling():
        gathered: Tensor = _ChunkedAttention.apply(query, key, value, scale, rows)
        return gathered
    learns = torch.is_grad_enabled() and any(part.requires_grad for part in (query, key, value))
    chunks = []
    for chunk in torch.split(query, rows, dim=1):
        if learns:
            chunks.append(checkpoint(_attend, chunk, key, value, scale, use_reentrant=False))
        else:
            chunks.append(_attend(chunk, key, value, scale))
    return torch.cat(chunks, dim=1)  # (B, N, E)


class _ChunkedAttention(torch.autograd.Function):
    """Attention over chunks of rows, computed again on the way back; every large block is taken once and used again.

    Blocks of one size that are taken and freed in turn, with results between them, would leave holes that the C
    library cannot fill: measured at twice the memory.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, rows: int) -> Tensor:
        batch, positions = query.shape[:2]
        out = value.new_empty(batch, positions, value.shape[2])
        logarithms = value.new_empty(batch, positions, 1)  # of each row's sum of exponentials
        block = value.new_empty(batch, rows, key.shape[1])
        with torch.autocast(value.device.type, enabled=False):
            for start in range(0, positions, rows):
                part = slice(start, min(start + rows, positions))
                weights = block[:, : part.stop - start]
                torch.bmm(scale * query[:, part], key.transpose(1, 2), out=weights)  # (B, n, M)
                top = weights.amax(dim=-1, keepdim=True)
                total = weights.sub_(top).exp_().sum(dim=-1, keepdim=True)  # (B, n, 1)
                out[:, part] = (weights @ value).div_(total)  # (B, n, E)
                logarithms[:, part] = top + total.log()
        ctx.save_for_backward(query, key, value, out, logarithms)
        ctx.scale, ctx.rows = scale, rows
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out, logarithms = ctx.saved_tensors
        scale, rows, positions = ctx.scale, ctx.rows, query.shape[1]
        grad_query, grad_key, grad_value = (torch.zeros_like(part) for part in (query, key, value))
        blocks = value.new_empty(2, query.shape[0], rows, key.shape[1])
        along = (grad * out).sum(dim=-1, keepdim=True)  # (B, N, 1)
        with torch.autocast(value.device.type, enabled=False):
            for start in range(0, positions, rows):
                part = slice(start, min(start + rows, positions))
                weights, scores = blocks[:, :, : part.stop - start]
                scaled = scale * query[:, part]
                torch.bmm(scaled, key.transpose(1, 2), out=weights)
                weights.sub_(logarithms[:, part]).exp_()  # the softmax, (B, n, M)
                grad_value += weights.transpose(1, 2) @ grad[:, part]
                torch.bmm(grad[:, part], value.transpose(1, 2), out=scores)
                scores.sub_(along[:, part]).mul_(weights)
                grad_query[:, part] = scale * (scores @ key)
                grad_key += scores.transpose(1, 2) @ scaled
        return grad_query, grad_key, grad_value, None, None


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    weights = torch.softmax(scale * query @ key.transpose(1, 2), dim=-1)  # (B, N, M), each row sums to 1
    return weights.to(value.dtype) @ value
