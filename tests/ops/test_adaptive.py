# SPDX-License-Identifier: Apache-2.0
"""Adaptive pooling against torch's, in the form that is exported too."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F

from denseg.errors import ShapeError, UsageError
from denseg.ops import adaptive_pool


@pytest.mark.parametrize("exporting", [False, True])
@pytest.mark.parametrize("bins", [1, 2, 3, 6, 9])
@pytest.mark.parametrize("size", [(60, 45), (7, 13), (2, 5), (1, 1)])
def test_equals_torchs(bins: int, size: tuple[int, int], exporting: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: exporting)
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(adaptive_pool(x, bins), F.adaptive_avg_pool2d(x, bins))
    assert torch.equal(adaptive_pool(x, bins, pool="max"), F.adaptive_max_pool2d(x, bins))


def test_messages() -> None:
    expected = "pooling takes floating-point maps (B, C, h, w), got torch.float32 of shape (3, 4, 5)"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        adaptive_pool(torch.zeros(3, 4, 5), 2)
    with pytest.raises(UsageError, match=r"^bins must be at least 1, got 0$"):
        adaptive_pool(torch.zeros(1, 1, 2, 2), 0)
    with pytest.raises(UsageError, match=r"^pool is 'avg' or 'max', got 'min'$"):
        adaptive_pool(torch.zeros(1, 1, 2, 2), 2, pool="min")
