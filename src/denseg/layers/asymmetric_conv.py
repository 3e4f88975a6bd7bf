# SPDX-License-Identifier: Apache-2.0
"""Asymmetric convolution: a square kernel trained with a row and a column beside it, then fused into one.

Paper:
    X. Ding, Y. Guo, G. Ding, J. Han, "ACNet: Strengthening the Kernel Skeletons for Powerful CNN via Asymmetric
    Convolution Blocks", ICCV 2019. https://arxiv.org/abs/1908.03930 - Sections 3.1 and 3.2.
Reference code:
    https://github.com/DingXiaoH/ACNet (not copied).
Departures from the paper:
    None known.
Cost:
    Training takes 1 + 2 / k of the square kernel's products; after ``fuse`` inference takes the square kernel's.

Shape letters: B batch, C channels in, D channels out, k side of the kernel, h and w feature height and width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseg.errors import ShapeError, UsageError
from denseg.layers.conv import init_conv
from denseg.layers.norm import BatchNorm2d

__all__ = ["AsymmetricConv"]


class AsymmetricConv(nn.Module):
    """Sum of a k x k, a 1 x k and a k x 1 convolution, each with its own batch norm; no activation."""

    def __init__(
        self,
        in_channels: int,
        *,
        out_channels: int | None = None,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        branch_weight: float = 1.0,
    ) -> None:
        """Create the three branches.

        Args:
            in_channels: Channels of the input, C.
            out_channels: Channels of the output, D; C if ``None``.
            kernel_size: Odd side of the kernel, k, at least 3.
            stride: Input positions per output position.
            padding: Zeros around the input on each side; as many as keep the size at stride 1 if ``None``.
            dilation: Distance between the kernel's taps.
            groups: Groups of the convolutions.
            branch_weight: Weight that the branches' batch norms start with; 1 in the paper, 1/3 (the sum starts no
                larger than one branch) is an option of the released code.

        Raises:
            UsageError: ``kernel_size`` is even or less than 3.
        """
        super().__init__()
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise UsageError(f"an asymmetric convolution needs an odd kernel_size of at least 3, got {kernel_size}")
        out_channels = in_channels if out_channels is None else out_channels
        reach = dilation * (kernel_size // 2)
        padding = reach if padding is None else padding
        self.crop = max(0, reach - padding)  # a row looks at the middle rows of the square's windows only

        def branch(size: tuple[int, int]) -> _Branch:
            outside = [max(0, padding - (reach if side == 1 else 0)) for side in size]
            conv = nn.Conv2d(
                in_channels,
                out_channels,
                size,
                stride=stride,
                padding=(outside[0], outside[1]),
                dilation=dilation,
                groups=groups,
                bias=False,
            )
            return _Branch(conv, branch_weight)

        self.square = branch((kernel_size, kernel_size))
        self.row = branch((1, kernel_size))
        self.column = branch((kernel_size, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Convolve and normalise in three branches and add.

        Args:
            features: ``(B, C, h, w)``, floating point.

        Returns:
            ``(B, D, h, w)`` at stride 1 and the default padding, else ``(B, D, ceil(h / stride), ceil(w / stride))``.

        Raises:
            ShapeError: ``features`` is not 4-D.
        """
        if features.ndim != 4:
            raise ShapeError(f"AsymmetricConv takes features of shape (B, C, h, w), got {tuple(features.shape)}")
        rows = columns = features
        if self.crop:
            rows = features[:, :, self.crop : features.shape[2] - self.crop]
            columns = features[..., self.crop : features.shape[3] - self.crop]
        total: Tensor = self.square(features) + self.row(rows) + self.column(columns)
        return total

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """Fold the batch norms into the kernels and add row and column to the square kernel's middle.

        Returns:
            One convolution with bias that gives what this layer gives in evaluation.

        Raises:
            UsageError: A batch norm keeps no running statistics.
        """
        square = self.square.conv
        fused = nn.Conv2d(
            square.in_channels,
            square.out_channels,
            square.weight.shape[-1],
            stride=square.stride[0],
            padding=(int(square.padding[0]), int(square.padding[1])),
            dilation=square.dilation[0],
            groups=square.groups,
        ).to(square.weight)
        kernel, bias = torch.zeros_like(square.weight), square.weight.new_zeros(square.out_channels)
        for branch in (self.square, self.row, self.column):
            part, offset = branch.fold()
            missing = [side - length for side, length in zip(kernel.shape[2:], part.shape[2:], strict=True)]
            kernel += F.pad(part, (missing[1] // 2, missing[1] // 2, missing[0] // 2, missing[0] // 2))
            bias += offset
        fused.weight.copy_(kernel)
        if fused.bias is not None:
            fused.bias.copy_(bias)
        return fused


class _Branch(nn.Module):
    """Convolution without bias and batch norm."""

    def __init__(self, conv: nn.Conv2d, weight: float) -> None:
        super().__init__()
        self.conv = conv
        self.norm = BatchNorm2d(conv.out_channels)
        init_conv(conv)
        nn.init.constant_(self.norm.weight, weight)

    def forward(self, features: Tensor) -> Tensor:
        normalised: Tensor = self.norm(self.conv(features))
        return normalised

    def fold(self) -> tuple[Tensor, Tensor]:
        """Give the kernel and the bias of the one convolution that equals this branch in evaluation."""
        norm = self.norm
        mean, variance = norm.running_mean, norm.running_var
        if mean is None or variance is None:
            raise UsageError("a batch norm without running statistics cannot be fused; keep track_running_stats on")
        factor = norm.weight / (variance + norm.eps).sqrt()  # (D,)
        return self.conv.weight * factor.view(-1, 1, 1, 1), norm.bias - mean * factor
