# SPDX-License-Identifier: Apache-2.0
"""The compiled maxima against torch's pooling, values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from denseg.ops import max_pool_pyramid, max_pyramid
from denseg.ops.max_pyramid import can_compile, compiled_max_pyramid

WINDOWS = (3, 5, 9, 15)


def expected(x: Tensor, window: int) -> Tensor:
    return F.max_pool2d(x, window, stride=1, padding=window // 2)


@pytest.mark.parametrize("shape", [(1, 3, 9, 14), (2, 2, 1, 20), (1, 1, 1, 1), (3, 1, 40, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_torchs(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=dtype, requires_grad=True)
    weights = [torch.randn(shape, generator=generator, dtype=dtype) for _ in WINDOWS]
    ours = compiled_max_pyramid(x, WINDOWS)
    theirs = [expected(x, window) for window in WINDOWS]
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
    gradients = [torch.autograd.grad(maps, x, weights)[0] for maps in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_threads_part_the_planes(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 7, 12, 12)
    alone = compiled_max_pyramid(x, WINDOWS)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert all(map(torch.equal, compiled_max_pyramid(x, WINDOWS), alone))


def test_memory_format_does_not_matter() -> None:
    x = torch.randn(2, 4, 9, 11).to(memory_format=torch.channels_last).requires_grad_()
    maps = compiled_max_pyramid(x, (3,))
    assert torch.equal(maps[0], expected(x, 3))
    (gradient,) = torch.autograd.grad(maps[0].sum(), x)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected(x, 3).sum(), x)[0])


def test_of_equal_values_one_gets_the_gradient() -> None:
    x = torch.zeros(1, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(compiled_max_pyramid(x, (5,))[0].sum(), x)
    assert gradient.sum() == 64


def test_not_a_number_spreads_as_in_torch() -> None:
    x = torch.randn(1, 1, 9, 9)
    x[0, 0, 4, 4] = torch.nan
    for ours, window in zip(compiled_max_pyramid(x, (3, 7)), (3, 7), strict=True):
        assert torch.equal(ours.isnan(), expected(x, window).isnan())


def test_it_is_taken_for_large_maps_that_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, ...]] = []
    real = compiled_max_pyramid

    def note(x: Tensor, windows: list[int]) -> tuple[Tensor, ...]:
        taken.append(tuple(windows))
        return real(x, windows)

    monkeypatch.setattr("denseg.ops.pyramid.compiled_max_pyramid", note)
    large = torch.randn(1, 16, 65, 65, requires_grad=True)
    maps = max_pool_pyramid(large, (9, 3, 9))
    assert taken == [(3, 9)]
    assert torch.equal(maps[0], maps[2])
    assert torch.equal(maps[1], expected(large, 3))
    max_pool_pyramid(large.detach(), (3,))
    max_pool_pyramid(large[:, :4], (3,))
    assert len(taken) == 1
    assert not can_compile(large.half())
    assert can_compile(large.double())


def test_without_a_cache_folder_it_compiles_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    real, calls = numba.njit, []

    def njit(**options: bool) -> object:
        calls.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(numba, "njit", njit)
    max_pyramid._compiled.cache_clear()
    try:
        x = torch.randn(1, 1, 4, 4)
        assert torch.equal(compiled_max_pyramid(x, (3,))[0], expected(x, 3))
    finally:
        max_pyramid._compiled.cache_clear()
    assert calls == [{"cache": True, "nogil": True}, {"nogil": True}]
