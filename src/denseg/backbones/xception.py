# SPDX-License-Identifier: Apache-2.0
"""DeepLab's modified aligned Xception: what timm's network lacks of the released code.

Paper:
    L.-C. Chen, Y. Zhu, G. Papandreou, F. Schroff, H. Adam, "Encoder-Decoder with Atrous Separable Convolution for
    Semantic Image Segmentation", ECCV 2018. https://arxiv.org/abs/1802.02611 - Section 4.1, Figure 4.
Reference code:
    https://github.com/tensorflow/models/tree/master/research/deeplab (not copied); layers and weights are timm's.
Departures from the paper:
    As the released code and its weights have it, the 3x3 depthwise convolutions are followed by batch norm alone, but
    for the last block; ``activations="paper"`` adds the ReLU of Figure 4.

Shape letters: B batch, C channels, h and w feature height and width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from timm.models.xception_aligned import SeparableConv2d, XceptionModule
from torch import nn

from denseg.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["RELEASED_MOMENTUM", "adapt_xception", "is_xception"]

RELEASED_MOMENTUM = 3e-4
"""Of the batch norms: 1 - 0.9997, the released code's decay. Their epsilon of 1e-3 is timm's, too."""


def is_xception(network: nn.Module) -> bool:
    """Tell whether a network is a modified aligned Xception with ReLU before its convolutions.

    Args:
        network: Any network.

    Returns:
        True for timm's ``xception41``, ``xception65`` and ``xception71``.
    """
    return any(isinstance(module, XceptionModule) for module in network.modules())


def adapt_xception(network: nn.Module, *, activations: str) -> None:
    """Give the levels inside strided blocks before their ReLU, and choose the activations.

    TensorFlow's decoder reads ``separable_conv2_pointwise``: the batch norm's output. The ReLU moves into the
    convolution that follows.

    Args:
        network: timm's, changed in place; its state dict stays.
        activations: ``released`` or ``paper``.

    Raises:
        UsageError: ``activations`` is neither.
    """
    if activations not in {"released", "paper"}:
        raise UsageError(f"activations is 'released' or 'paper', got {activations!r}")
    for block in network.modules():
        if not isinstance(block, XceptionModule):
            continue
        relu: Any = getattr(block.stack, "act3", None)
        conv: Any = block.stack.conv3
        if isinstance(relu, nn.ReLU) and conv.conv_dw.stride != (1, 1):
            relu.__class__, conv.__class__ = _Tap, _RectifiedConv
        if activations == "paper":
            for child in block.stack.children():
                if isinstance(child, SeparableConv2d) and isinstance(child.act_dw, nn.Identity):
                    child.act_dw = nn.ReLU(inplace=True)


class _Tap(nn.ReLU):
    """A level's place: gives what it gets."""

    def forward(self, input: Tensor) -> Tensor:
        return input


class _RectifiedConv(SeparableConv2d):
    """The separable convolution after a tap, with the ReLU before it."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(F.relu(x))  # type: ignore[no-untyped-call]
        return out
