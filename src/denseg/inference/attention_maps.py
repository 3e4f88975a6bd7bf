# SPDX-License-Identifier: Apache-2.0
"""Where an attention layer looks from one position: the weights that it sums the other positions with.

Each map is computed from what the layer took, by its own projections: weights times values give what the layer added.

Shape letters: C channels, D width of query and key, h and w feature height and width, N = h * w positions, K bases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseg.layers import (
    CrissCrossAttention,
    ExpectationMaximizationAttention,
    LocationAwareAttention,
    NonLocal,
    PositionAttention,
)
from denseg.layers.criss_cross_attention import criss_cross_attention

__all__ = ["ATTENTION", "attention_map", "record_inputs"]

_EPSILON = 1e-6  # as in the EM attention


def attention_map(layer: nn.Module, features: Tensor, row: int, column: int) -> Tensor:
    """Give the weights with which a layer sums all positions for one.

    Args:
        layer: An attention over positions, see ``ATTENTION``; in evaluation mode.
        features: ``(1, C, h, w)``, what it took.
        row: Of the position.
        column: Of the position.

    Returns:
        ``(h, w)``; for location-aware attention, which weighs each position by itself, its weights of all positions.
        For a non-local layer on a halved map ``(ceil(h / 2), ceil(w / 2))``.
    """
    rule = next(rule for kind, rule in ATTENTION.items() if isinstance(layer, kind))
    return rule(layer, features, row, column)


def record_inputs(model: nn.Module, images: Tensor) -> tuple[Any, dict[str, tuple[nn.Module, Tensor]]]:
    """Run a model and keep what each attention layer took.

    Args:
        model: A network in evaluation mode.
        images: ``(1, C, H, W)``.

    Returns:
        The model's output, and by layer name the layer and its input.
    """
    seen: dict[str, tuple[nn.Module, Tensor]] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name] = (layer, inputs[0].detach())

        return hook

    kinds: tuple[type[nn.Module], ...] = tuple(ATTENTION)
    handles = [
        layer.register_forward_pre_hook(keep(name)) for name, layer in model.named_modules() if isinstance(layer, kinds)
    ]
    try:
        output = model(images)
    finally:
        for handle in handles:
            handle.remove()
    return output, seen


def _position(layer: Any, features: Tensor, row: int, column: int) -> Tensor:
    query = layer.query(features)[0, :, row, column]  # (D,)
    key = layer.key(features)[0].flatten(1)  # (D, N)
    return torch.softmax(query @ key, dim=0).view(features.shape[2:])


def _non_local(layer: Any, features: Tensor, row: int, column: int) -> Tensor:
    query = features if layer.theta is None else layer.theta(features)
    key = features if layer.phi is None else layer.phi(features)
    if layer.subsample:
        key = F.max_pool2d(key, 2, ceil_mode=True)
    size, one, keys = key.shape[2:], query[0, :, row, column], key[0].flatten(1)  # (D,), (D, M)
    if layer.concatenate is not None:
        first, second = layer.concatenate.weight[0].chunk(2)
        return (F.relu(one @ first + second @ keys) / keys.shape[1]).view(size)
    scores = one @ keys
    if layer.pairwise == "dot_product":
        return (scores / keys.shape[1]).view(size)
    scale = one.shape[0] ** -0.5 if layer.scale else 1.0
    return torch.softmax(scale * scores, dim=0).view(size)


def _criss_cross(layer: Any, features: Tensor, row: int, column: int) -> Tensor:
    """The weights of all turns in a row: where the position looks, and where those positions had looked before."""
    turns = []
    for _ in range(layer.recurrence):
        query, key = layer.query(features), layer.key(features)
        turns.append(_criss_cross_weights(query, key))
        features = features + layer.gamma * criss_cross_attention(query, key, layer.value(features))
    height, width = features.shape[2:]
    reached = features.new_zeros(height, width)
    reached[row, column] = 1
    for columns, rows in reversed(turns):
        down = torch.einsum("wij,iw->jw", columns, reached)  # each position's share goes along its column
        along = torch.einsum("hij,hi->hj", rows, reached)
        reached = down + along
    return reached


def _criss_cross_weights(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over row and column together: ``(w, h, h)`` along columns and ``(h, w, w)`` along rows."""
    height = query.shape[2]
    columns = torch.einsum("dij,dkj->jik", query[0], key[0])  # (w, h, h)
    columns = columns.masked_fill(torch.eye(height, dtype=torch.bool, device=query.device), -torch.inf)
    rows = torch.einsum("dij,dik->ijk", query[0], key[0])  # (h, w, w)
    both = torch.cat([columns.transpose(0, 1), rows], dim=2).softmax(dim=2)  # (h, w, h + w)
    return both[..., :height].transpose(0, 1), both[..., height:]


def _expectation(layer: Any, features: Tensor, row: int, column: int) -> Tensor:
    _, responsibilities = layer.iterate(layer.input(features).flatten(2))  # (1, N, K)
    shares = responsibilities[0] / (_EPSILON + responsibilities[0].sum(dim=0, keepdim=True))  # (N, K)
    own = responsibilities[0, row * features.shape[3] + column]  # (K,)
    looked: Tensor = (shares @ own).view(features.shape[2:])
    return looked


def _location(layer: Any, features: Tensor, row: int, column: int) -> Tensor:
    weights: Tensor = layer.attention(features)[0, 0]
    return weights


ATTENTION: Mapping[type[nn.Module], Callable[[Any, Tensor, int, int], Tensor]] = MappingProxyType(
    {
        PositionAttention: _position,
        NonLocal: _non_local,
        CrissCrossAttention: _criss_cross,
        ExpectationMaximizationAttention: _expectation,
        LocationAwareAttention: _location,
    }
)
"""Layers that attend over positions; attention over channels has no map."""
