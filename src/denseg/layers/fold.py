# SPDX-License-Identifier: Apache-2.0
"""Fold batch norms into the convolutions before them, for inference: a convolution with a bias remains.

Shape letters: B batch, C image bands, H and W image height and width.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from denseg.errors import UsageError
from denseg.layers.asymmetric_conv import AsymmetricConv
from denseg.layers.asymmetric_swap import fuse_asymmetric_convs
from denseg.layers.norm_pairs import find_norm_pairs

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["fold_batch_norms"]


@torch.no_grad()
def fold_batch_norms(model: nn.Module, images: Tensor) -> nn.Module:
    """Copy a model with its batch norms folded; the scores stay, but for rounding.

    Which norm follows which convolution is found by running the model, whatever its code looks like. Asymmetric
    convolutions become square ones. The copy is compared with the model on ``images``; where anything but rounding
    differs (a convolution's output is also used before its norm), the model itself comes back.

    Args:
        model: The model in evaluation mode, which stays as it is.
        images: ``(B, C, H, W)`` to run it on, any size.

    Returns:
        The folded copy in evaluation mode, or ``model``.

    Raises:
        UsageError: The model is in training mode.
    """
    if model.training:
        raise UsageError("batch norms are folded for inference; call model.eval() first")
    folded = fuse_asymmetric_convs(copy.deepcopy(model))
    fused = any(isinstance(module, AsymmetricConv) for module in model.modules())
    pairs = find_norm_pairs(folded, images)
    for conv, norm in pairs:
        _fold(conv, norm)
    before, after = _tensors(model(images)), _tensors(folded(images))
    if not (pairs or fused) or any(_differ(*pair) for pair in zip(before, after, strict=True)):
        return model
    return folded


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Scale the kernel, add the bias, and leave the norm with nothing to do."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        return
    scale = torch.rsqrt(variance.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    bias = -mean.double() * scale
    if conv.bias is not None:
        bias = bias + conv.bias.double() * scale
    if norm.bias is not None:
        bias = bias + norm.bias.double()
    weight = conv.weight.double() * scale[:, None, None, None]
    kept = (
        torch.channels_last if conv.weight.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    )
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype).contiguous(memory_format=kept), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
    norm.__class__ = _Rest if hasattr(norm, "act") else _Nothing


class _Nothing(nn.BatchNorm2d):
    """A batch norm that its convolution has taken over."""

    def forward(self, input: Tensor) -> Tensor:
        return input


class _Rest(_Nothing):
    """timm's norm with dropout and activation, whose norm the convolution has taken over."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = self.act(self.drop(input))
        return out


def _tensors(output: Any) -> Iterable[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [tensor for part in output for tensor in _tensors(part)] if isinstance(output, (tuple, list)) else []


def _differ(before: Tensor, after: Tensor) -> bool:
    return not torch.allclose(before, after, rtol=1e-3, atol=1e-4 * max(1.0, float(before.abs().max())))
