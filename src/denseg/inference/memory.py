# SPDX-License-Identifier: Apache-2.0
"""How many bytes of activations a model needs per input pixel: what decides how large a tile may be."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["bytes_per_pixel"]

SLACK = 1.3
"""Scratch memory of the convolution libraries beside the tensors, measured: 1.15 to 1.7 on small and large networks."""


def bytes_per_pixel(scores: Callable[[Tensor], Any] | nn.Module, *, in_channels: int, side: int) -> float:
    """Measure the largest memory of one forward pass by following the life of its tensors.

    Args:
        scores: The model, in evaluation mode, or a function of ``(1, C, side, side)``.
        in_channels: C.
        side: Pixels; a size that the model takes.

    Returns:
        Bytes per input pixel, weights aside.
    """
    first = next(scores.parameters(), None) if isinstance(scores, nn.Module) else None
    images = torch.zeros((1, in_channels, side, side), device=None if first is None else first.device)
    live = _LiveTensors()
    with torch.inference_mode(), live:
        scores(images)
    return SLACK * (live.peak + images.nbytes) / side**2


class _LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operations make, until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._follow(value.untyped_storage())
        self.peak = max(self.peak, self._now)
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self._now += storage.nbytes()
            weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self._now -= self._sizes.pop(key, 0)
