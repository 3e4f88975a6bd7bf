# SPDX-License-Identifier: Apache-2.0
"""Dense attention against its definition, whole and in chunks."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from denseg.errors import ShapeError
from denseg.ops import attention, dense_attention


def parts(n: int = 12, m: int = 9, d: int = 4, e: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (2, n, d), (2, m, d), (2, m, e)
    return tuple(torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes)


def by_definition(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return torch.softmax(scale * query @ key.transpose(1, 2), dim=-1) @ value


@pytest.mark.parametrize("elements", [1, 2 * 9 * 5, 2**23])
@pytest.mark.parametrize("width", [4, 7])
def test_equals_the_definition_with_its_gradient(width: int, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_CHUNK_ELEMENTS", elements)
    three = parts(e=width)
    ours, expected = dense_attention(*three, scale=0.3), by_definition(*three, 0.3)
    torch.testing.assert_close(ours, expected)
    for a, b in zip(
        torch.autograd.grad(ours.cos().sum(), three), torch.autograd.grad(expected.cos().sum(), three), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_the_whole_matrix_is_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    whole = attention._attend

    def watched(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        sizes.append(query.shape[0] * query.shape[1] * key.shape[1])
        return whole(query, key, value, scale)

    monkeypatch.setattr(attention, "_attend", watched)
    monkeypatch.setattr(attention, "_CHUNK_ELEMENTS", 64)
    query, key, value = parts(n=40, m=16, e=6)
    dense_attention(query, key, value).sum().backward()
    assert max(sizes) <= 64
    assert len(sizes) == 40  # 20 chunks of two rows, and each again for its gradient


def test_messages() -> None:
    query, key, value = parts()
    expected = (
        "attention takes query (B, N, D), key (B, M, D) and value (B, M, E), got (2, 12, 4), (2, 9, 3), (2, 9, 4)"
    )
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        dense_attention(query, key[..., :3], value)
