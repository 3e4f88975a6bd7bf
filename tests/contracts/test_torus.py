# SPDX-License-Identifier: Apache-2.0
"""The torus on which the contract shifts images: it is round, and it shows what is laid out wrongly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(1, 3, 8, 12, generator=GENERATOR, dtype=torch.float64)
WEIGHT = torch.randn(4, 3, 3, 3, generator=GENERATOR, dtype=torch.float64)
UP = torch.randn(3, 2, 4, 4, generator=GENERATOR, dtype=torch.float64)

ROUND: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "conv": (lambda x: F.conv2d(x, WEIGHT, padding=1), 1),
    "dilated conv wider than the map": (lambda x: F.conv2d(x, WEIGHT, padding=18, dilation=18), 1),
    "strided conv": (lambda x: F.conv2d(x, WEIGHT, stride=2, padding=1), 0.5),
    "same conv": (lambda x: F.conv2d(x, WEIGHT, padding="same"), 1),
    "padded conv": (lambda x: F.conv2d(F.pad(x, (0, 1, 0, 1)), WEIGHT, stride=2), 0.5),
    "transposed conv": (lambda x: F.conv_transpose2d(x, UP, stride=2, padding=1), 2),
    "max pool": (lambda x: F.max_pool2d(x, 3, stride=2, padding=1), 0.5),
    "max pool that rounds up": (lambda x: F.max_pool2d(x, 3, stride=2, ceil_mode=True), 0.5),
    "average pool": (lambda x: nn.AvgPool2d(2, 2, ceil_mode=True)(x), 0.5),
    "nearest": (lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"), 2),
    "bilinear": (lambda x: F.interpolate(x, size=(32, 48), mode="bilinear", align_corners=False), 4),
    "bicubic": (lambda x: F.interpolate(x, size=(16, 24), mode="bicubic", align_corners=False), 2),
}


@pytest.mark.parametrize("name", list(ROUND))
def test_operations_commute_with_shifts(name: str, torus: Callable[[], Any]) -> None:
    operation, scale = ROUND[name]
    with torus():
        still, moved = operation(X), operation(X.roll((2, 4), (2, 3)))
    assert still.shape[2:] == (8 * scale, 12 * scale)
    torch.testing.assert_close(moved, still.roll((int(2 * scale), int(4 * scale)), (2, 3)))


@pytest.mark.parametrize("name", list(ROUND))
def test_far_from_the_border_nothing_changes(name: str, torus: Callable[[], Any]) -> None:
    if name == "dilated conv wider than the map":
        return  # no position of this map is far from its border
    operation, _ = ROUND[name]
    with torus():
        inside = operation(X)
    plain = operation(X)
    rows, columns = inside.shape[2] // 2, inside.shape[3] // 2
    torch.testing.assert_close(inside[:, :, rows, columns], plain[:, :, rows, columns])


def test_circular_padding_is_torchs(torus: Callable[[], Any]) -> None:
    conv = nn.Conv2d(3, 4, 5, padding=2, padding_mode="circular").double()
    with torus():
        ours = F.conv2d(X, conv.weight, conv.bias, padding=2)
    torch.testing.assert_close(ours, conv(X))


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "a grid on the corners": lambda x: F.interpolate(
        x[:, :, ::2, ::2], size=(8, 12), mode="bilinear", align_corners=True
    ),
    "a position code": lambda x: x + torch.linspace(0, 1, 12, dtype=x.dtype),
    "a mean of fixed regions": lambda x: F.interpolate(F.adaptive_avg_pool2d(x, 2), size=(8, 12)),
    "a crop to the corner": lambda x: F.interpolate(x[:, :, :7, :11], size=(8, 12)),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_what_treats_positions_differently_shows(name: str, torus: Callable[[], Any]) -> None:
    with torus():
        still, moved = WRONG[name](X), WRONG[name](X.roll((2, 4), (2, 3)))
    assert not torch.allclose(moved, still.roll((2, 4), (2, 3)))
