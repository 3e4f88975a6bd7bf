# SPDX-License-Identifier: Apache-2.0
"""Expectation-maximisation attention: positions are rebuilt from a few bases that the map itself proposes.

Paper:
    X. Li et al., "Expectation-Maximization Attention Networks for Semantic Segmentation", ICCV 2019.
    https://arxiv.org/abs/1907.13426 - the EMA unit: responsibilities, likelihood, re-estimation, moving bases.
Reference code:
    https://github.com/XiaLiPKU/EMANet (not copied; GPL-3).
Departures from the paper:
    None known. As in the paper the iterations carry no gradient, so that the first convolution keeps its initial
    weights; it is frozen here, so that no optimiser and no process group waits for its gradient.
Cost:
    Linear in the number of positions: N K C per iteration.

Shape letters: B batch, C channels, K bases, h and w feature height and width, N = h * w positions.
"""

from __future__ import annotations

from types import MappingProxyType

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from denseg.errors import ShapeError, UsageError
from denseg.layers.conv import init_conv
from denseg.layers.norm import BatchNorm2d

__all__ = ["NO_GRADIENT", "ExpectationMaximizationAttention"]

NO_GRADIENT = MappingProxyType(
    {
        "input.weight": "frozen: the EM iterations behind it carry no gradient",
        "input.bias": "frozen: the EM iterations behind it carry no gradient",
    }
)

_EPSILON = 1e-6


class ExpectationMaximizationAttention(nn.Module):
    """The EMA unit with its residual.

    Attributes:
        bases: ``(C, K)``, unit columns at the start; a moving mean over batches in training.
    """

    bases: Tensor

    def __init__(self, in_channels: int, *, bases: int = 64, iterations: int = 3, momentum: float = 0.9) -> None:
        """Create the convolutions and draw the bases.

        Args:
            in_channels: Channels of the input and of the output, C.
            bases: Number of bases, K.
            iterations: Expectation and maximisation steps, T.
            momentum: Share of the old bases in their moving mean.

        Raises:
            UsageError: A number is out of range.
        """
        super().__init__()
        if bases < 1 or iterations < 1 or not 0 <= momentum <= 1:
            raise UsageError(
                "bases and iterations must be at least 1 and momentum in 0..1, "
                f"got {bases}, {iterations} and {momentum}"
            )
        self.iterations = iterations
        self.momentum = momentum
        self.input = nn.Conv2d(in_channels, in_channels, 1)
        self.output = nn.Conv2d(in_channels, in_channels, 1, bias=False)
        self.norm = BatchNorm2d(in_channels)
        init_conv(self.input)
        init_conv(self.output)
        self.input.requires_grad_(False)
        drawn = torch.randn(in_channels, bases) * (2 / bases) ** 0.5
        self.register_buffer("bases", F.normalize(drawn, dim=0))

    def forward(self, features: Tensor) -> Tensor:
        """Rebuild the map from its bases and add it.

        Args:
            features: ``(B, C, h, w)``, floating point.

        Returns:
            ``(B, C, h, w)``, at least 0.

        Raises:
            ShapeError: ``features`` is not 4-D.
        """
        if features.ndim != 4:
            raise ShapeError(
                f"ExpectationMaximizationAttention takes features of shape (B, C, h, w), got {tuple(features.shape)}"
            )
        with torch.no_grad():
            rows = self.input(features).flatten(2)  # (B, C, N)
            bases, responsibilities = self.iterate(rows)
            if self.training:
                self._move(bases)
            rebuilt = bases @ responsibilities.transpose(1, 2)  # (B, C, N)
        rebuilt = F.relu(rebuilt).to(features.dtype).reshape(features.shape)  # (B, C, N) -> (B, C, h, w)
        return F.relu(features + self.norm(self.output(rebuilt)))

    def iterate(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Run the EM steps.

        Args:
            rows: ``(B, C, N)``, floating point.

        Returns:
            Bases ``(B, C, K)`` of unit length, and the responsibilities ``(B, N, K)`` that they were made with, each
            row summing to 1.
        """
        rows = rows.float() if rows.dtype != torch.float64 else rows
        bases = self.bases.to(rows.dtype).expand(rows.shape[0], -1, -1)  # (B, C, K)
        responsibilities = rows.new_empty(0)
        for _ in range(self.iterations):
            responsibilities = torch.softmax(rows.transpose(1, 2) @ bases, dim=2)  # (B, N, K)
            shares = responsibilities / (_EPSILON + responsibilities.sum(dim=1, keepdim=True))
            bases = F.normalize(rows @ shares, dim=1)  # (B, C, K)
        return bases, responsibilities

    def _move(self, bases: Tensor) -> None:
        mean = bases.mean(dim=0)  # (C, K)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
        self.bases.lerp_(mean.to(self.bases.dtype), 1 - self.momentum)
