# SPDX-License-Identifier: Apache-2.0
"""Modules that look at a map through a window: what they do, and how to let them do it on a denser map.

``set_window`` gives a convolution or pool another stride, and lets it read every ``rate``-th position. Its parameters,
buffers and their names stay. At the positions of the sparse map (every ``rate``-th of the denser one) it computes what
it computed before, border included, whatever the padding: symmetric, TensorFlow's ``SAME``, none, or reflected.

Shape letters: B batch, C channels, h and w height and width, k kernel side.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.blur_pool import BlurPool2d
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from torch import Tensor, nn

__all__ = ["Window", "blank_image", "has_window", "round_up", "set_window", "window_of"]

Pair = tuple[int, int]

_SAME = (AvgPool2dSame, Conv2dSame, MaxPool2dSame)
_SAME_FLAGS = ("same_pad", "dynamic_padding")  # by which timm's other convolutions say that they pad as TensorFlow does
_CONV_ATTRIBUTES = ("weight", "kernel_size", "stride", "padding", "dilation")


@dataclass(frozen=True)
class Window:
    """A module as it was made.

    Attributes:
        base: Its class.
        kernel: Rows and columns of the window.
        stride: Positions from one output to the next.
        dilation: Positions from one tap to the next.
        padding: Before the first row and column; ``None`` where TensorFlow's ``SAME`` decides it by size.
        own: Its attributes that ``set_window`` may change.
        rounds_up: Whether it gets padding after the last row and column, so that sizes are rounded up.
    """

    base: type[nn.Module]
    kernel: Pair
    stride: Pair
    dilation: Pair
    padding: Pair | None
    own: tuple[tuple[str, Any], ...]
    rounds_up: bool = False

    @property
    def is_centered(self) -> bool:
        """Whether the padding is half the window on each side, so that sizes are rounded up by itself."""
        return self.padding is not None and all(
            2 * p == d * (k - 1) for k, d, p in zip(self.kernel, self.dilation, self.padding, strict=True)
        )


def has_window(module: nn.Module) -> bool:
    """Tell whether a module is a convolution or pool with a window.

    Args:
        module: Any module.

    Returns:
        True for those that ``set_window`` can change.
    """
    if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, BlurPool2d)):
        return True
    return all(hasattr(module, name) for name in _CONV_ATTRIBUTES) and not isinstance(module, nn.ConvTranspose2d)


def window_of(module: Any) -> Window:
    """Read how a module was made, also after ``set_window``.

    Args:
        module: A module that has a window.

    Returns:
        Its window.
    """
    known: Window | None = getattr(module, "_window", None)
    if known is not None:
        return known
    if isinstance(module, BlurPool2d):
        kernel = _pair(module.filt_size)
        padding: Pair | None = _pair(module.padding[0])
    else:
        kernel = _pair(module.kernel_size)
        same = isinstance(module, _SAME) or any(getattr(module, flag, False) for flag in _SAME_FLAGS)
        if module.padding == "same":
            padding = _pair(tuple(d * (k - 1) // 2 for d, k in zip(_pair(module.dilation), kernel, strict=True)))
        else:
            padding = None if same else _pair(module.padding)
    names = ("stride", "dilation", "padding", "ceil_mode", *_SAME_FLAGS)
    own = tuple((name, getattr(module, name)) for name in names if name in vars(module))
    stride, dilation = _pair(module.stride), _pair(getattr(module, "dilation", 1))
    return Window(type(module), kernel, stride, dilation, padding, own)


def round_up(module: Any) -> None:
    """Let a module with a stride give ``ceil(size / stride)`` positions at any size, and one without keep the size.

    Windows that overlap but are not padded get half a window of padding; else the padding before the first position
    stays, and what lacks is added after the last one.

    Args:
        module: Convolution or pool, changed in place.
    """
    window = window_of(module)
    if window.padding is None or window.is_centered or isinstance(module, BlurPool2d):
        return
    overlaps = any(k > s for k, s in zip(window.kernel, window.stride, strict=True))
    if window.padding == (0, 0) and overlaps and not getattr(module, "ceil_mode", False):
        module.padding = (window.kernel[0] // 2, window.kernel[1] // 2)
        window = window_of(module)
        if window.is_centered:
            return
    changed = Window(
        window.base, window.kernel, window.stride, window.dilation, window.padding, window.own, rounds_up=True
    )
    set_window(module, changed)


def set_window(module: Any, window: Window, *, rate: int = 1, stride: Pair | None = None) -> None:
    """Let a module read every ``rate``-th position, with another stride.

    Args:
        module: The module, changed in place.
        window: How it was made.
        rate: Distance of the positions that it reads, on the map that it gets.
        stride: Its stride on that map; its own if ``None``.
    """
    module.__class__ = window.base
    for name, value in window.own:
        setattr(module, name, value)
    base: Any = window.base
    stride = window.stride if stride is None else stride
    module._window, module._rate, module._stride = window, rate, stride
    if rate == 1 and stride == window.stride and not window.rounds_up:
        return
    if issubclass(base, BlurPool2d):
        module.__class__ = _class_of(_Blur, base)
    elif issubclass(base, nn.AvgPool2d):
        module.__class__ = _class_of(_Average, nn.AvgPool2d)
    else:
        module.stride = stride
        module.dilation = tuple(rate * d for d in window.dilation)
        pools = issubclass(base, nn.MaxPool2d)  # torch refuses them padding beyond half of k
        if window.is_centered and window.padding is not None and not (pools and rate > 1):
            module.padding = tuple(rate * p for p in window.padding)
            return
        module.padding = (0, 0)
        for flag in _SAME_FLAGS:
            if hasattr(module, flag):
                setattr(module, flag, False)
        plain = base
        if issubclass(plain, _SAME):
            plain = nn.Conv2d if issubclass(plain, nn.Conv2d) else nn.MaxPool2d
        module.__class__ = _class_of(_Padded, plain)


def blank_image(network: nn.Module, bands: int, height: int, width: int) -> Tensor:
    """Make the image on which a network is run to learn about it.

    Args:
        network: The network.
        bands: Image bands.
        height: Rows.
        width: Columns.

    Returns:
        ``(1, C, H, W)`` zeros of the network's precision, on its device.
    """
    like = next(network.parameters(), torch.zeros(()))
    return like.new_zeros(1, bands, height, width)


def _pads(module: Any, x: Tensor) -> list[int]:
    """Padding as ``F.pad`` takes it, so that the output has ``ceil(size / stride)`` positions."""
    window: Window = module._window
    rate: int = module._rate
    pads: list[int] = []
    for axis in (1, 0):
        size = x.shape[2 + axis]
        reach = window.dilation[axis] * (window.kernel[axis] - 1)
        if window.padding is None:
            sparse = -(-size // rate)
            steps = -(-sparse // window.stride[axis]) - 1
            before = max(steps * window.stride[axis] + reach + 1 - sparse, 0) // 2
        else:
            before = window.padding[axis]
        stride: int = module._stride[axis]
        pads += [before * rate, rate * (reach - before) + 1 - stride + (-size) % stride]
    return pads


def _pad(x: Tensor, pads: list[int], value: float = 0.0) -> Tensor:
    return F.pad(x, pads, value=value) if torch.compiler.is_exporting() or any(pads) else x


class _Padded(nn.Module):
    """Pads by itself, then does what the class beside it does without padding."""

    def forward(self, x: Tensor) -> Tensor:
        fill = -torch.inf if isinstance(self, nn.MaxPool2d) else 0.0
        out: Tensor = super().forward(_pad(x, _pads(self, x), fill))
        return out


class _Average(nn.Module):
    """Average over a window with holes; what lies beyond the module's own padding never counts."""

    _window: Window
    _rate: int
    _stride: Pair
    count_include_pad: bool

    def forward(self, x: Tensor) -> Tensor:
        pads = _pads(self, x)
        total = self._sum(_pad(x, pads))
        if self._window.padding is None:
            return total / (self._window.kernel[0] * self._window.kernel[1])
        ones = torch.ones_like(x[:1, :1])
        rows, columns = (self._rate * p if self.count_include_pad else 0 for p in self._window.padding)
        within = F.pad(ones, (columns, columns, rows, rows), value=1.0)
        rest = [pad - own for pad, own in zip(pads, (columns, columns, rows, rows), strict=True)]
        return total / self._sum(F.pad(within, rest))

    def _sum(self, x: Tensor) -> Tensor:
        for axis in (2, 3):
            kernel, stride = self._window.kernel[axis - 2], self._stride[axis - 2]
            step = self._rate * self._window.dilation[axis - 2]
            length = x.shape[axis] - step * (kernel - 1)
            taps = [x.narrow(axis, tap * step, length) for tap in range(kernel)]
            x = functools.reduce(torch.add, taps)
            if stride > 1:
                x = x[:, :, ::stride] if axis == 2 else x[..., ::stride]
        return x


class _Blur(nn.Module):
    """timm's blurred subsampling, reading every ``rate``-th position; each phase is padded as the whole was."""

    _window: Window
    _rate: int
    _stride: Pair
    filt: Tensor
    pad_mode: str

    def forward(self, x: Tensor) -> Tensor:
        padding = self._window.padding or (0, 0)
        if self.pad_mode == "reflect":
            for axis in (2, 3):
                x = x.index_select(axis, self._reflected(x.shape[axis], padding[axis - 2], x.device))
        else:
            rows, columns = (self._rate * p for p in padding)
            x = F.pad(x, (columns, columns, rows, rows), mode=self.pad_mode)
        weight = self.filt.expand(x.shape[1], 1, *self._window.kernel)
        return F.conv2d(x, weight, stride=self._stride, dilation=self._rate, groups=x.shape[1])

    def _reflected(self, size: int, padding: int, device: torch.device) -> Tensor:
        """Which position each padded one shows: its mirror image within its own phase."""
        kernel, stride, rate = self._window.kernel[0], self._stride[0], self._rate
        length = (-(-size // stride) - 1) * stride + rate * (kernel - 1) + 1
        place = torch.arange(length, device=device) - rate * padding
        phase, index = place % rate, place.div(rate, rounding_mode="floor")
        last = (size - 1 - phase).clamp(min=0).div(rate, rounding_mode="floor")
        index = (last - (last - index.abs()).abs()).clamp(min=0)
        return (index * rate + phase).clamp(max=size - 1)


@functools.cache
def _class_of(mixin: Any, base: Any) -> Any:
    return type(f"{mixin.__name__.lstrip('_')}{base.__name__}", (mixin, base), {})


def _pair(value: Any) -> Pair:
    if isinstance(value, (tuple, list)):
        return (int(value[0]), int(value[-1]))
    return (int(value), int(value))
