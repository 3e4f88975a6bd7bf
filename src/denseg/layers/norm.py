# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation that also trains on a single value per channel, and with a slow average.

Paper:
    S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
    Shift", ICML 2015. https://arxiv.org/abs/1502.03167
Reference code:
    torch.nn.BatchNorm2d, which this is.
Departures from the paper:
    In training, a batch with one value per channel (batch 1, a 1x1 map) has no variance: it is normalised by the
    running statistics, which it leaves as they are. torch raises an error there.
    With a momentum below 0.01 (DeepLab's is 0.0003) the statistics are the plain mean over all batches so far, as long
    as that gives the newest one more weight; else their start would count for 10,000 steps.
Cost:
    That of torch's batch norm.

Shape letters: B batch, C channels, h and w feature height and width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BatchNorm2d", "is_single_value", "normalize_specially", "set_norm_momentum", "train_on_single_values"]

_SLOW = 0.01


class BatchNorm2d(nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d``, except that a single value per channel is normalised by the running statistics."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each channel.

        Args:
            input: ``(B, C, h, w)``, floating point.

        Returns:
            ``(B, C, h, w)``.
        """
        normalized = normalize_specially(self, input)
        return super().forward(input) if normalized is None else normalized


class _BatchNorm1d(nn.BatchNorm1d):
    """As ``BatchNorm2d``, for vectors and sequences."""

    def forward(self, input: Tensor) -> Tensor:
        normalized = normalize_specially(self, input)
        return super().forward(input) if normalized is None else normalized


def normalize_specially(norm: Any, x: Tensor) -> Tensor | None:
    """Normalise where torch's batch norm would not do.

    Args:
        norm: Any batch norm.
        x: ``(B, C, …)``, floating point.

    Returns:
        The normalised input; ``None`` where torch's own forward is right.
    """
    if not norm.training:
        return None
    if is_single_value(x):
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    if norm.momentum is None or norm.momentum >= _SLOW or norm.num_batches_tracked is None:
        return None
    norm.num_batches_tracked.add_(1)
    momentum = max(norm.momentum, 1 / int(norm.num_batches_tracked))
    return F.batch_norm(
        x, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=True, momentum=momentum, eps=norm.eps
    )


def set_norm_momentum(network: nn.Module, momentum: float, *, settled: bool = False) -> None:
    """Change how fast the running statistics of batch norms follow the batches.

    Args:
        network: Changed in place.
        momentum: Weight of the newest batch: 1 - decay.
        settled: The statistics are those of a trained network already, so that none of it may be forgotten at once.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum
            if settled and module.num_batches_tracked is not None:
                module.num_batches_tracked.fill_(round(1 / momentum))


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
