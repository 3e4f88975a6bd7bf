# SPDX-License-Identifier: Apache-2.0
"""Dense attention against its definition, whole and in chunks."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

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


class Largest(TorchDispatchMode):
    """Notes the most values of a tensor that any operation gives."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.values = max(self.values, result.numel())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_whole_matrix_is_never_held(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_CHUNK_ELEMENTS", 2 * 2 * 50)
    query, key, value = (part.detach().to(dtype).requires_grad_() for part in parts(n=60, m=50, e=6))
    with Largest() as largest:
        dense_attention(query, key, value).sum().backward()
    assert 2 * 60 * 6 <= largest.values < 2 * 60 * 50 / 4
    whole = by_definition(query.float(), key.float(), value.float(), 1.0)
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(dense_attention(query, key, value).float(), whole, rtol=tolerance, atol=tolerance)


def test_shapes_are_followed_without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_CHUNK_ELEMENTS", 18)
    query, key, value = (part.detach().float().to("meta") for part in parts(e=5))
    assert dense_attention(query, key, value).shape == (2, 12, 5)


def test_large_scores_do_not_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_CHUNK_ELEMENTS", 18)
    query, key, value = parts(e=5)
    far = [(200 * part).detach().requires_grad_() for part in (query, key)]
    ours = dense_attention(*far, value)
    torch.testing.assert_close(ours, by_definition(*far, value, 1.0))
    assert all(bool(grad.isfinite().all()) for grad in torch.autograd.grad(ours.sum(), [*far, value]))


def test_messages() -> None:
    query, key, value = parts()
    expected = (
        "attention takes query (B, N, D), key (B, M, D) and value (B, M, E), got (2, 12, 4), (2, 9, 3), (2, 9, 4)"
    )
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        dense_attention(query, key[..., :3], value)
