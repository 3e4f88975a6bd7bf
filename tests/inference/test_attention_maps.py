# SPDX-License-Identifier: Apache-2.0
"""Attention maps: weights times values are what the layer adds, for every layer and form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from denseg.inference.attention_maps import ATTENTION, attention_map, record_inputs
from denseg.layers import (
    LAYERS,
    CrissCrossAttention,
    ExpectationMaximizationAttention,
    LocationAwareAttention,
    NonLocal,
    PositionAttention,
)
from denseg.models import create_model


def randomised(layer: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer.eval()


@pytest.fixture
def features() -> Tensor:
    return torch.randn((1, 16, 7, 5), generator=torch.Generator().manual_seed(1))


PLACES = [(0, 0), (3, 4), (6, 2)]


@torch.no_grad()
@pytest.mark.parametrize("place", PLACES)
def test_position_attention(features: Tensor, place: tuple[int, int]) -> None:
    layer = randomised(PositionAttention(16))
    weights = attention_map(layer, features, *place)
    assert weights.sum().item() == pytest.approx(1)
    summed = (layer.value(features)[0] * weights).sum(dim=(1, 2))
    added = (layer(features) - features)[0, :, place[0], place[1]]
    torch.testing.assert_close(layer.gamma * summed, added, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("subsample", [False, True])
@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "gaussian", "dot_product", "concatenation"])
def test_non_local(features: Tensor, pairwise: str, subsample: bool) -> None:
    layer = randomised(
        NonLocal(16, reduction=1 if pairwise == "gaussian" else 2, pairwise=pairwise, subsample=subsample)
    )
    value = layer.g(features)
    if subsample:
        value = nn.functional.max_pool2d(value, 2, ceil_mode=True)
    for row, column in PLACES:
        weights = attention_map(layer, features, row, column)
        summed = (value[0] * weights).sum(dim=(1, 2))[None, :, None, None]
        expected = layer.norm(layer.output(summed))[0, :, 0, 0]
        torch.testing.assert_close((layer(features) - features)[0, :, row, column], expected, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_criss_cross_looks_along_its_row_and_column_and_then_everywhere(features: Tensor) -> None:
    layer = randomised(CrissCrossAttention(16, recurrence=1))
    for row, column in PLACES:
        weights = attention_map(layer, features, row, column)
        outside = torch.ones_like(weights, dtype=torch.bool)
        outside[row], outside[:, column] = False, False
        assert (weights[outside] == 0).all()
        summed = (layer.value(features)[0] * weights).sum(dim=(1, 2))
        added = (layer(features) - features)[0, :, row, column]
        torch.testing.assert_close(layer.gamma * summed, added, atol=1e-5, rtol=1e-4)
    twice = randomised(CrissCrossAttention(16, recurrence=2))
    weights = attention_map(twice, features, 3, 2)
    assert (weights > 0).all()
    assert weights.sum().item() == pytest.approx(1, abs=1e-5)
    assert twice.recurrence == 2


@torch.no_grad()
def test_expectation_maximization(features: Tensor) -> None:
    layer = randomised(ExpectationMaximizationAttention(16, bases=4))
    rows = layer.input(features).flatten(2)
    _, shares = layer.iterate(rows)
    weights = attention_map(layer, features, 2, 1)
    assert weights.sum().item() == pytest.approx(1, abs=1e-4)
    by_base = shares[0] / shares[0].sum(dim=0)
    torch.testing.assert_close(weights.flatten(), by_base @ shares[0, 2 * 5 + 1], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_location_aware_attention_weighs_each_position_by_itself(features: Tensor) -> None:
    layer = randomised(LocationAwareAttention(16, windows=(3, 5)))
    weights = attention_map(layer, features, 0, 0)
    torch.testing.assert_close(layer(features), features + layer.phi(weights * features))


def test_every_attention_of_the_catalog_over_positions_is_known() -> None:
    over_positions = {layer for name, layer in LAYERS.items() if "attention" in name or name == "non_local"}
    assert over_positions - set(ATTENTION) == {LAYERS["channel_attention"]}


@torch.no_grad()
@pytest.mark.parametrize("name", ["danet", "ccnet", "emanet", "hdnet", "nonlocal"])
def test_inputs_are_recorded_and_the_model_is_left_as_it_was(name: str) -> None:
    model = create_model(name, num_classes=2, backbone="test_resnet").eval()
    images = torch.randn(1, 3, 64, 64)
    output, seen = record_inputs(model, images)
    assert len(seen) == 1
    torch.testing.assert_close(output.logits, model(images).logits)
    assert not any(module._forward_pre_hooks for module in model.modules())
    (layer, taken) = next(iter(seen.values()))
    assert attention_map(layer, taken, 1, 2).shape[0] >= 4
