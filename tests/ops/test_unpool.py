# SPDX-License-Identifier: Apache-2.0
"""Pooling with switches and unpooling against torch's own pair."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from denseg.errors import ShapeError
from denseg.ops.unpool import max_pool_with_switches, unpool


@pytest.mark.parametrize("ties", [False, True])
def test_equal_to_torchs_pool_and_unpool(ties: bool) -> None:
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    if ties:
        x = x.round().relu()  # most windows have equal maxima; the first one counts
    pooled, switches = max_pool_with_switches(x)
    expected, indices = F.max_pool2d(x, 2, return_indices=True)
    assert torch.equal(pooled, expected)
    values = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    assert torch.equal(unpool(values, switches), F.max_unpool2d(values, indices, 2))


def test_unpooling_the_maxima_keeps_them_and_nothing_else() -> None:
    x = torch.rand(1, 2, 6, 6)
    back = unpool(*max_pool_with_switches(x))
    assert int((back != 0).sum()) == 2 * 9
    assert torch.equal(back[back != 0], x[back != 0])


def test_gradients() -> None:
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: unpool(*max_pool_with_switches(x)), (x,))


def test_errors() -> None:
    with pytest.raises(ShapeError) as odd:
        max_pool_with_switches(torch.zeros(1, 2, 4, 5))
    assert str(odd.value) == "pooling with switches takes maps (B, C, h, w) of even sides, got (1, 2, 4, 5)"
    with pytest.raises(ShapeError) as other:
        unpool(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, 2))
    assert str(other.value) == "unpooling needs one switch per value, got (1, 2, 4, 4) and (1, 2, 2, 2)"
