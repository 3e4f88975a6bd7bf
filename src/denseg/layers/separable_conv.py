# SPDX-License-Identifier: Apache-2.0
"""Depthwise separable convolution, with holes where asked: one filter per channel, then a mix of channels.

Paper:
    L.-C. Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", ECCV 2018.
    https://arxiv.org/abs/1802.02611 - Section 3.1, Figure 3.
    F. Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", CVPR 2017.
    https://arxiv.org/abs/1610.02357
Reference code:
    https://github.com/tensorflow/models/tree/master/research/deeplab (not copied).
Departures from the paper:
    None: batch norm and ReLU follow both convolutions, as in the released heads.
Cost:
    1 / C' + 1 / k^2 of the full k x k convolution's multiply-adds.

Shape letters: B batch, C channels in, C' channels out, h and w feature height and width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from denseg.errors import ShapeError, UsageError
from denseg.layers.conv import ConvBlock, speed_up_depthwise

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CONVS", "SeparableConv", "spatial_conv"]

CONVS = ("full", "grouped", "separable")
"""What ``conv`` may be, wherever a 3x3 convolution can be chosen."""


class SeparableConv(nn.Module):
    """Depthwise k x k convolution and 1x1 convolution, each with batch norm and ReLU."""

    def __init__(
        self,
        in_channels: int,
        *,
        out_channels: int | None = None,
        kernel_size: int = 3,
        dilation: int = 1,
        norm_between: bool = True,
    ) -> None:
        """Create both convolutions.

        Args:
            in_channels: Channels of the input, C.
            out_channels: Channels of the output, C'; C if ``None``.
            kernel_size: Odd side of the depthwise kernel, k.
            dilation: Distance between the depthwise kernel's taps.
            norm_between: Batch norm and ReLU after the depthwise convolution too; segmentation_models_pytorch has none.
        """
        super().__init__()
        self.depthwise: nn.Module = ConvBlock(
            in_channels, in_channels, kernel_size=kernel_size, dilation=dilation, groups=in_channels
        )
        if not norm_between:
            self.depthwise = self.depthwise.conv
            speed_up_depthwise(self)
        self.pointwise = ConvBlock(in_channels, in_channels if out_channels is None else out_channels, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """Filter each channel, then mix the channels.

        Args:
            features: ``(B, C, h, w)``, floating point.

        Returns:
            ``(B, C', h, w)``.

        Raises:
            ShapeError: ``features`` is not 4-D.
        """
        if features.ndim != 4:
            raise ShapeError(f"SeparableConv takes features of shape (B, C, h, w), got {tuple(features.shape)}")
        filtered: Tensor = self.depthwise(features)  # (B, C, h, w)
        mixed: Tensor = self.pointwise(filtered)  # (B, C', h, w)
        return mixed


def spatial_conv(
    in_channels: int,
    out_channels: int,
    *,
    conv: str = "full",
    kernel_size: int = 3,
    dilation: int = 1,
    groups: int = 4,
    norm_between: bool = True,
) -> nn.Module:
    """Make a convolution with batch norm and ReLU in one of three forms.

    Args:
        in_channels: Channels of the input, C.
        out_channels: Channels of the output, C'.
        conv: ``full``; ``separable``, 1 / C' + 1 / k^2 of its cost; or ``grouped``, 1 / groups of its cost.
        kernel_size: Odd side of the kernel, k.
        dilation: Distance between the kernel's taps.
        groups: Groups of the grouped form.
        norm_between: See ``SeparableConv``.

    Returns:
        ``(B, C, h, w)`` to ``(B, C', h, w)``.

    Raises:
        UsageError: ``conv`` is none of the three, or ``groups`` does not divide both numbers of channels.
    """
    if conv not in CONVS:
        raise UsageError(f"conv is 'full', 'separable' or 'grouped', got {conv!r}")
    if conv == "separable":
        return SeparableConv(
            in_channels,
            out_channels=out_channels,
            kernel_size=kernel_size,
            dilation=dilation,
            norm_between=norm_between,
        )
    if conv == "full":
        return ConvBlock(in_channels, out_channels, kernel_size=kernel_size, dilation=dilation)
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise UsageError(
            f"groups must divide the channels of a grouped convolution, {in_channels} in and {out_channels} out; "
            f"got {groups}"
        )
    return ConvBlock(in_channels, out_channels, kernel_size=kernel_size, dilation=dilation, groups=groups)
