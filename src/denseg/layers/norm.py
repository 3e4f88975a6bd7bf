# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation that also trains on a single value per channel.

Paper:
    S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
    Shift", ICML 2015. https://arxiv.org/abs/1502.03167
Reference code:
    torch.nn.BatchNorm2d, which this is.
Departures from the paper:
    In training, a batch with one value per channel (batch 1, a 1x1 map) has no variance: it is normalised by the
    running statistics, which it leaves as they are. torch raises an error there.
Cost:
    That of torch's batch norm.

Shape letters: B batch, C channels, h and w feature height and width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BatchNorm2d", "is_single_value", "train_on_single_values"]


class BatchNorm2d(nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d``, except that a single value per channel is normalised by the running statistics."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each channel.

        Args:
            input: ``(B, C, h, w)``, floating point.

        Returns:
            ``(B, C, h, w)``.
        """
        if self.training and is_single_value(input):
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


class _BatchNorm1d(nn.BatchNorm1d):
    """As ``BatchNorm2d``, for vectors and sequences."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and is_single_value(input):
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


def train_on_single_values(network: nn.Module) -> None:
    """Let torch's batch norms inside a network train on a single value, too.

    Args:
        network: Changed in place; parameters, buffers and their names stay.
    """
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = BatchNorm2d  # the same parameters, another forward
        elif type(module) is nn.BatchNorm1d:
            module.__class__ = _BatchNorm1d


def is_single_value(x: Tensor) -> bool:
    """Tell whether a map holds one value per channel: batch 1 and size 1x1.

    Args:
        x: ``(B, C, h, w)``.

    Returns:
        True for ``(1, C, 1, 1)``.
    """
    return x.shape[0] == 1 and all(side == 1 for side in x.shape[2:])
