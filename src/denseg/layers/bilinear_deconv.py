# SPDX-License-Identifier: Apache-2.0
"""Growth by a transposed convolution that interpolates bilinearly: fixed, or the start of what is learned.

Paper:
    J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015.
    https://arxiv.org/abs/1411.4038 - Section 3.3.
Reference code:
    https://github.com/shelhamer/fcn.berkeleyvision.org ``surgery.py`` (not copied).
Departures from the paper:
    A fixed kernel is one kernel for all channels and no parameter; the released nets hold a tensor of all pairs of
    channels that is zero off its diagonal, which computes the same.
Cost:
    ``(kernel / stride) ** 2`` products per output value if fixed, times C if learned.

Shape letters: B batch, C channels, h and w feature height and width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseg.errors import UsageError

__all__ = ["BilinearDeconv", "bilinear_kernel"]


class BilinearDeconv(nn.Module):
    """Transposed convolution without bias and padding, bilinear at the start.

    Attributes:
        weight: ``(C, C, kernel, kernel)`` where it learns; ``None`` where it is fixed.
    """

    weight: nn.Parameter | None
    kernel: Tensor

    def __init__(self, channels: int, *, stride: int, kernel_size: int | None = None, learned: bool = False) -> None:
        """Create the kernel.

        Args:
            channels: Channels in and out, C.
            stride: By how much maps grow.
            kernel_size: Side of the kernel; twice the stride if ``None``.
            learned: Whether the weights between all pairs of channels learn.

        Raises:
            UsageError: A number is not positive.
        """
        super().__init__()
        kernel_size = 2 * stride if kernel_size is None else kernel_size
        if min(channels, stride, kernel_size) < 1:
            raise UsageError(
                f"channels, stride and kernel_size must be at least 1, got {channels}, {stride} and {kernel_size}"
            )
        self.channels = channels
        self.stride = stride
        kernel = bilinear_kernel(kernel_size)  # (k, k)
        if learned:
            weight = torch.zeros(channels, channels, kernel_size, kernel_size)
            weight[range(channels), range(channels)] = kernel
            self.weight = nn.Parameter(weight)
        else:
            self.register_parameter("weight", None)
            self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Grow maps.

        Args:
            x: ``(B, C, h, w)``, floating point.

        Returns:
            ``(B, C, (h - 1) * stride + kernel_size, (w - 1) * stride + kernel_size)``.
        """
        if self.weight is not None:
            return F.conv_transpose2d(x, self.weight, stride=self.stride)
        kernel = self.kernel.to(x.dtype).expand(self.channels, 1, -1, -1)  # (C, 1, k, k)
        return F.conv_transpose2d(x, kernel, stride=self.stride, groups=self.channels)


def bilinear_kernel(size: int) -> Tensor:
    """Give the kernel that interpolates bilinearly: the outer product of two hats.

    Args:
        size: Side of the kernel.

    Returns:
        ``(size, size)`` float32.
    """
    slope = (size + 1) // 2
    centre = slope - 1 if size % 2 else slope - 0.5
    hat = 1 - (torch.arange(size, dtype=torch.float32) - centre).abs() / slope  # (k,)
    return hat[:, None] * hat[None, :]
