# SPDX-License-Identifier: Apache-2.0
"""The moving average of a network's weights: what a run validates, keeps as best and last, and predicts with.

The average starts fast and settles at its decay, ``min(decay, (1 + step) / (10 + step))``, so that a short training is
not averaged with its random start. Statistics of batch norm are averaged with the weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """Holds float32 (or wider) averages of all floating-point weights and buffers of a network.

    Attributes:
        decay: The share of the old average that stays, after many steps.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        """Start with the network's weights as they are.

        Args:
            model: The network, on its device.
            decay: In 0..1; 0.999 averages over about the last 1,000 steps.
        """
        self.decay = decay
        self._model = model
        self._average = {
            name: tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
            for name, tensor in model.state_dict().items()
            if tensor.is_floating_point()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after an optimiser step.

        Args:
            step: Optimiser steps done in the stage, 1 after the first.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        now = self._model.state_dict()
        average = list(self._average.values())
        current = [now[name].to(value.dtype) for name, value in self._average.items()]
        torch._foreach_lerp_(average, current, 1.0 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Give the network its averaged weights inside the block, and its own ones back after it.

        Yields:
            Nothing.
        """
        own = {name: tensor.clone() for name, tensor in self._model.state_dict().items() if name in self._average}
        self._copy(self._average)
        try:
            yield
        finally:
            self._copy(own)

    def tensors(self) -> dict[str, Tensor]:
        """Give the averages by the names of the network's weights and buffers."""
        return dict(self._average)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what ``tensors`` gave.

        Args:
            tensors: The averages by name.
        """
        for name, value in self._average.items():
            value.copy_(tensors[name])

    @torch.no_grad()
    def _copy(self, values: Mapping[str, Tensor]) -> None:
        weights = self._model.state_dict()  # the tensors themselves, not copies
        for name, value in values.items():
            weights[name].copy_(value)
