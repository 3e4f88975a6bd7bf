# SPDX-License-Identifier: Apache-2.0
"""Where in their square the kernels of a network are strong.

The observation that asymmetric convolutions start from: in trained networks the middle row and column of a kernel (its
skeleton) weigh more than its corners, and pruning them hurts more (X. Ding et al., "ACNet", ICCV 2019, Section 4.4,
which averages the kernels' magnitudes, each scaled by its own largest).

Shape letters: k side of a kernel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

__all__ = ["KernelMean", "kernel_means"]


class KernelMean(NamedTuple):
    """The mean kernel of one size.

    Attributes:
        size: Side of the kernels, k.
        layers: Convolutions of that size.
        weights: ``(k, k)`` mean magnitude per tap: of each layer the sum over its kernels of absolute weights, scaled
            by its largest tap, then the mean over layers; in 0..1.
    """

    size: int
    layers: int
    weights: NDArray[np.float64]

    @property
    def skeleton(self) -> float:
        """Mean of the middle row and column, the middle itself counted once."""
        return float(self.weights[self._on_skeleton()].mean())

    @property
    def corners(self) -> float:
        """Mean of the four corners."""
        last = self.size - 1
        return float(self.weights[[0, 0, last, last], [0, last, 0, last]].mean())

    @property
    def rest(self) -> float:
        """Mean of all taps off the skeleton."""
        return float(self.weights[~self._on_skeleton()].mean())

    def _on_skeleton(self) -> NDArray[np.bool_]:
        middle = np.arange(self.size) == self.size // 2
        return np.asarray(middle[:, None] | middle)


@torch.no_grad()
def kernel_means(network: nn.Module) -> tuple[KernelMean, ...]:
    """Average the kernels of a network, size by size.

    Args:
        network: Any network; its square kernels of odd side 3 and more are looked at. Fuse asymmetric convolutions
            first to see the kernels that they make.

    Returns:
        One entry per size, smallest first; empty where there is no such kernel.
    """
    by_size: dict[int, list[NDArray[np.float64]]] = {}
    for module in network.modules():
        if not isinstance(module, nn.Conv2d):
            continue
        height, width = module.weight.shape[2:]
        if height != width or height < 3 or height % 2 == 0:
            continue
        taps = module.weight.detach().abs().double().sum(dim=(0, 1)).cpu().numpy()  # (k, k)
        largest = float(taps.max())
        if largest > 0:
            by_size.setdefault(height, []).append(taps / largest)
    return tuple(KernelMean(size, len(taps), np.mean(taps, axis=0)) for size, taps in sorted(by_size.items()))
