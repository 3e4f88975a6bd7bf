# SPDX-License-Identifier: Apache-2.0
"""Multi-scale dilated context: scores refined by convolutions whose reach doubles while no resolution is lost.

Paper:
    F. Yu, V. Koltun, "Multi-Scale Context Aggregation by Dilated Convolutions", ICLR 2016.
    https://arxiv.org/abs/1511.07122 - Section 3, Table 1, equations 4 and 5.
Reference code:
    https://github.com/fyu/dilation, https://github.com/fyu/caffe-dilation (not copied).
Departures from the paper:
    The paper's basic module has no noise in its initialisation (equation 4); the released code adds some, and so does
    ``noise``. The released large module pads by 33 once; here every layer pads by its dilation, which changes the 33
    outermost positions only. The large module of 10 layers, which the paper does not have, keeps 32 C in the added two.
Cost:
    64 C**2 products per position for the basic module.

Shape letters: B batch, C channels, h and w feature height and width.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseg.errors import ShapeError, UsageError
from denseg.ops.pad import reflect_pad

__all__ = ["DilatedContext"]

# Table 1: 3x3 convolutions, then one 1x1. KITTI's network leaves layer 6 out, Cityscapes' adds two after it.
_DILATIONS = MappingProxyType({7: (1, 1, 2, 4, 8, 1), 8: (1, 1, 2, 4, 8, 16, 1), 10: (1, 1, 2, 4, 8, 16, 32, 64, 1)})
_LARGE = MappingProxyType({7: (2, 2, 4, 8, 16, 32), 8: (2, 2, 4, 8, 16, 32, 32), 10: (2, 2, 4, 8, 16, 32, 32, 32, 32)})


class DilatedContext(nn.Module):
    """The context module; drawn as in the paper it starts as a rectifier, so that it can follow a trained network.

    Attributes:
        dilations: Of the 3x3 convolutions, in order.
        receptive_field: Side of what one output position sees, in positions.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        size: Literal["basic", "large"] = "basic",
        layers: int = 8,
        init: Literal["identity", "random"] = "identity",
        noise: float = 0.01,
        padding: Literal["zero", "reflect"] = "zero",
    ) -> None:
        """Create the convolutions.

        Args:
            in_channels: Channels of the input and of the output, C; the paper's are the classes' scores.
            size: ``basic`` keeps C channels, ``large`` widens to 32 C.
            layers: 7, 8 or 10: KITTI's, the paper's, Cityscapes'.
            init: ``identity`` as in the paper, or ``random`` (He et al.).
            noise: Standard deviation of what is added off the identity, divided by each layer's widening; with 0 the
                module is the rectifier exactly.
            padding: What lies beyond the map: zeros, or its mirror image.

        Raises:
            UsageError: An option is unknown or out of range.
        """
        super().__init__()
        if layers not in _DILATIONS:
            raise UsageError(f"the context module has 7, 8 or 10 layers, got {layers}")
        for name, value, known in (
            ("size", size, ("basic", "large")),
            ("init", init, ("identity", "random")),
            ("padding", padding, ("zero", "reflect")),
        ):
            if value not in known:
                raise UsageError(f"{name} is '{known[0]}' or '{known[1]}', got {value!r}")
        if noise < 0:
            raise UsageError(f"noise is a standard deviation of at least 0, got {noise}")
        self.in_channels = in_channels
        self.padding = padding
        self.dilations = _DILATIONS[layers]
        self.receptive_field = 1 + 2 * sum(self.dilations)
        wide = _LARGE[layers] if size == "large" else (1,) * len(self.dilations)
        widths = [in_channels * factor for factor in wide]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, dilation=dilation)
            for before, after, dilation in zip([in_channels, *widths], widths, self.dilations, strict=False)
        )
        self.last = nn.Conv2d(widths[-1], in_channels, 1)
        for conv in (*self.convs, self.last):
            if isinstance(conv, nn.Conv2d):
                _init(conv, in_channels, init, noise)

    def forward(self, features: Tensor) -> Tensor:
        """Aggregate context.

        Args:
            features: ``(B, C, h, w)``, floating point: a front end's scores.

        Returns:
            ``(B, C, h, w)``.

        Raises:
            ShapeError: ``features`` is not ``(B, C, h, w)``.
        """
        if features.ndim != 4 or features.shape[1] != self.in_channels:
            raise ShapeError(
                f"DilatedContext takes features of shape (B, {self.in_channels}, h, w), got {tuple(features.shape)}"
            )
        x = features
        for conv, dilation in zip(self.convs, self.dilations, strict=True):
            x = F.relu(conv(self._pad(x, dilation)))  # truncation max(., 0)
        refined: Tensor = self.last(x)  # (B, C, h, w), not truncated
        return refined

    def _pad(self, x: Tensor, by: int) -> Tensor:
        return reflect_pad(x, (by, by, by, by)) if self.padding == "reflect" else F.pad(x, (by, by, by, by))


@torch.no_grad()
def _init(conv: nn.Conv2d, channels: int, init: str, noise: float) -> None:
    """Draw a convolution: equation 5, of which equation 4 is the case without widening."""
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    if init == "random":
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        return
    nn.init.normal_(conv.weight, std=noise * channels / conv.out_channels)
    source = torch.arange(conv.in_channels) * channels // conv.in_channels  # (c_i,) the score that a channel carries
    target = torch.arange(conv.out_channels) * channels // conv.out_channels  # (c_i+1,)
    same = target[:, None] == source[None, :]
    middle = conv.weight.shape[-1] // 2
    centre = conv.weight[:, :, middle, middle]
    centre[same] = channels / conv.out_channels
