# SPDX-License-Identifier: Apache-2.0
"""Convolution, batch norm, ReLU: the block that heads and decoders are made of.

Shape letters: B batch, C channels, h and w feature height and width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import nn

from denseg.errors import UsageError
from denseg.layers.norm import BatchNorm2d
from denseg.ops import conv_on_upsampled, depthwise_atrous_conv2d

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ConvBlock", "UpConvBlock", "init_classifier", "init_conv", "is_plain_conv", "speed_up_depthwise"]


class ConvBlock(nn.Module):
    """Convolution without bias, batch norm, ReLU; the size stays."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int = 3, dilation: int = 1, groups: int = 1
    ) -> None:
        """Create convolution and norm.

        Args:
            in_channels: Channels of the input.
            out_channels: Channels of the output.
            kernel_size: Odd side of the kernel.
            dilation: Distance between the kernel's taps.
            groups: Groups of the convolution.

        Raises:
            UsageError: A number of channels is not positive.
        """
        super().__init__()
        if in_channels < 1 or out_channels < 1:
            raise UsageError(f"a convolution needs at least 1 channel in and out, got {in_channels} and {out_channels}")
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=groups,
            bias=False,
        )
        self.norm = BatchNorm2d(out_channels)
        init_conv(self.conv)
        speed_up_depthwise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalise, rectify.

        Args:
            x: ``(B, C, h, w)``, floating point.

        Returns:
            ``(B, C', h, w)``.
        """
        return F.relu(self.norm(self.conv(x)), inplace=True)


class UpConvBlock(nn.Module):
    """Grow a map by nearest neighbours, concatenate a skip, then 3x3 convolution without bias, batch norm, ReLU."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        """Create convolution and norm.

        Args:
            in_channels: Channels of the map that grows.
            skip_channels: Channels of the skip; 0 for none.
            out_channels: Channels of the output.

        Raises:
            UsageError: A number of channels is not positive.
        """
        super().__init__()
        if in_channels < 1 or out_channels < 1:
            raise UsageError(f"a convolution needs at least 1 channel in and out, got {in_channels} and {out_channels}")
        self.conv = _UpConv2d(in_channels + skip_channels, out_channels, 3, padding=1, bias=False)
        self.norm = BatchNorm2d(out_channels)
        init_conv(self.conv)

    def forward(self, x: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Grow, concatenate, convolve, normalise, rectify.

        Args:
            x: ``(B, C, h, w)``, floating point.
            skip: ``(B, S, height, width)``, or ``None``.
            size: ``(height, width)`` to grow to; those of ``skip``.

        Returns:
            ``(B, O, height, width)``.
        """
        return F.relu(self.norm(self.conv(x, skip, size)), inplace=True)


class _UpConv2d(nn.Conv2d):
    """3x3 convolution of a grown map and a skip, in its fastest exact form."""

    def forward(self, x: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:  # type: ignore[override]
        return conv_on_upsampled(x, skip, self.weight, size, self.bias)


def init_conv(conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Draw a convolution's weights as He et al. do for ReLU networks; a bias becomes 0.

    Args:
        conv: The convolution, changed in place.
    """
    nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def init_classifier(conv: nn.Conv2d) -> nn.Conv2d:
    """Draw a classifier's weights small, so that training starts near equal scores, as DeepLab's released code does.

    Args:
        conv: The last convolution, changed in place.

    Returns:
        The same convolution.
    """
    nn.init.trunc_normal_(conv.weight, std=0.01)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class _DepthwiseAtrousConv2d(nn.Conv2d):
    """``torch.nn.Conv2d`` of one kernel per channel with holes, in its fastest exact form."""

    def forward(self, input: Tensor) -> Tensor:
        return depthwise_atrous_conv2d(input, self.weight, self.dilation[0], self.bias)


def speed_up_depthwise(network: nn.Module) -> None:
    """Let the dilated depthwise convolutions inside a network choose their fastest exact form.

    Args:
        network: Changed in place; parameters and their names stay.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and _is_depthwise_atrous(module):
            module.__class__ = _DepthwiseAtrousConv2d  # the same parameters, another forward


def is_plain_conv(conv: nn.Conv2d) -> bool:
    """Tell whether a convolution maps one tensor to one, as ``torch.nn.Conv2d`` does, in whatever form it computes it.

    Args:
        conv: The convolution.

    Returns:
        False for convolutions that also grow or concatenate, and for classes that denseg does not know.
    """
    return type(conv) in {nn.Conv2d, _DepthwiseAtrousConv2d}


def _is_depthwise_atrous(conv: nn.Conv2d) -> bool:
    kernel, dilation = conv.kernel_size, conv.dilation
    return (
        conv.in_channels == conv.out_channels == conv.groups
        and dilation[0] == dilation[1] > 1
        and kernel[0] == kernel[1]
        and kernel[0] % 2 == 1
        and conv.stride == (1, 1)
        and conv.padding == (dilation[0] * (kernel[0] // 2),) * 2
        and conv.padding_mode == "zeros"
    )
