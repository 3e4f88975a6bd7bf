# SPDX-License-Identifier: Apache-2.0
"""The context module against Table 1 and equations 4 and 5 of its paper."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from denseg.errors import ShapeError, UsageError
from denseg.layers import DilatedContext


def features(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("channels", "options", "parameters"),
    [
        (21, {}, 64 * 21**2 + 8 * 21),
        (21, {}, 28_392),
        (11, {}, 7_832),
        (11, {"layers": 7}, 6_732),
        (19, {"layers": 10}, 29_792),
        (21, {"size": "large"}, 6_803_139),
    ],
)
def test_parameters(channels: int, options: dict[str, Any], parameters: int) -> None:
    assert sum(p.numel() for p in DilatedContext(channels, **options).parameters()) == parameters


@pytest.mark.parametrize("options", [{}, {"layers": 7}, {"layers": 10}, {"size": "large"}])
def test_without_noise_the_whole_module_is_the_rectifier(options: dict[str, Any]) -> None:
    x = features(1, 21, 40, 40)
    torch.testing.assert_close(DilatedContext(21, noise=0.0, **options)(x), F.relu(x), rtol=0, atol=1e-5)


def test_labels_change_only_where_all_scores_are_negative() -> None:
    x = features(1, 3, 64, 64)
    changed = DilatedContext(3, size="large", noise=0.0)(x).argmax(1) != x.argmax(1)
    assert not bool((changed & (x.amax(1) > 1e-5)).any())
    assert bool(changed.any())


def test_receptive_fields_of_table_1() -> None:
    layer = DilatedContext(2, init="random").double()
    fields = []
    x = torch.zeros(1, 2, 81, 81, dtype=torch.float64, requires_grad=True)
    y = x
    for conv, dilation in zip(layer.convs, layer.dilations, strict=True):
        y = F.conv2d(F.pad(y, (dilation,) * 4), conv.weight.abs(), dilation=dilation)  # no truncation, no cancelling
        (gradient,) = torch.autograd.grad(y[0, :, 40, 40].sum(), x, retain_graph=True)
        rows = gradient.abs().sum(dim=(0, 1, 3)).nonzero()
        fields.append(int(rows.max() - rows.min()) + 1)
    assert fields == [3, 5, 9, 17, 33, 65, 67]
    assert fields[1:6] == [2 ** (i + 2) + 1 for i in range(5)]
    assert layer.receptive_field == 67
    assert DilatedContext(2, layers=10).receptive_field == 259


def test_widths_and_dilations_of_table_1() -> None:
    layer = DilatedContext(3, size="large")
    assert [conv.out_channels // 3 for conv in (*layer.convs, layer.last)] == [2, 2, 4, 8, 16, 32, 32, 1]
    assert [conv.dilation[0] for conv in (*layer.convs, layer.last)] == [1, 1, 2, 4, 8, 16, 1, 1]
    assert [conv.kernel_size[0] for conv in (*layer.convs, layer.last)] == [3] * 7 + [1]


def test_equation_5_entry_by_entry() -> None:
    layer = DilatedContext(3, size="large", noise=0.0)
    before = 3
    for conv in layer.convs:
        after = conv.out_channels
        for b in range(after):
            for a in range(before):
                expected = 3 / after if a * 3 // before == b * 3 // after else 0.0
                assert conv.weight[b, a, 1, 1].item() == pytest.approx(expected)
        assert int((conv.weight != 0).sum()) == after * before // 3
        before = after


def test_noise_has_the_stated_size_and_spares_the_identity() -> None:
    layer = DilatedContext(21, size="large", noise=0.01)
    clean = DilatedContext(21, size="large", noise=0.0)
    for noisy, conv in zip(layer.convs, clean.convs, strict=True):
        on = conv.weight != 0
        assert torch.equal(noisy.weight[on], conv.weight[on])
        assert noisy.weight[~on].std().item() == pytest.approx(0.01 * 21 / conv.out_channels, rel=0.05)


def test_the_last_layer_is_not_truncated() -> None:
    layer = DilatedContext(2, noise=0.0)
    torch.nn.init.constant_(layer.last.bias, -1.0)
    x = features(1, 2, 8, 8)
    torch.testing.assert_close(layer(x), F.relu(x) - 1)


def test_moves_with_the_map_and_mirrors() -> None:
    layer = DilatedContext(2, init="random", layers=7).double()
    x = features(1, 2, 90, 90).double()
    torch.testing.assert_close(layer(x.roll(5, dims=3))[..., 45:50], layer(x)[..., 40:45])
    reflected = DilatedContext(2, init="random", padding="reflect").double()
    constant = torch.ones(1, 2, 5, 7, dtype=torch.float64)  # mirrored, a constant map has no border
    torch.testing.assert_close(reflected(constant), reflected(constant)[:, :, :1, :1].expand(1, 2, 5, 7))


def test_gradients() -> None:
    layer = DilatedContext(2, init="random", layers=7).double()
    assert torch.autograd.gradcheck(layer, (features(1, 2, 3, 4).double().requires_grad_(),))


def test_messages() -> None:
    for options, expected in (
        ({"layers": 9}, "the context module has 7, 8 or 10 layers, got 9"),
        ({"size": "small"}, "size is 'basic' or 'large', got 'small'"),
        ({"init": "zero"}, "init is 'identity' or 'random', got 'zero'"),
        ({"padding": "same"}, "padding is 'zero' or 'reflect', got 'same'"),
        ({"noise": -1}, "noise is a standard deviation of at least 0, got -1"),
    ):
        with pytest.raises(UsageError, match=f"^{re.escape(expected)}$"):
            DilatedContext(3, **options)
    expected = "DilatedContext takes features of shape (B, 3, h, w), got (1, 4, 5, 5)"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        DilatedContext(3)(torch.zeros(1, 4, 5, 5))
