# SPDX-License-Identifier: Apache-2.0
"""What the contract suite needs to look at networks: a torus without borders, perturbed parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class Torus(TorchFunctionMode):
    """Inside, images have no border: convolutions, pools and interpolations wrap around.

    A network that treats all positions alike then commutes exactly with shifts by its total stride, whatever its
    receptive field; one that doesn't (a grid laid with ``align_corners=True``, a crop off by a pixel) doesn't. Sizes
    must be multiples of the total stride.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        wrapped = WRAPPED.get(func)
        with torch._C.DisableTorchFunction():
            return (wrapped or func)(*args, **(kwargs or {}))


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (tuple(value) * 2)[:2]


def wrap(x: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Circular padding of any width, also wider than the image."""
    rows = torch.arange(-top, x.shape[-2] + bottom) % x.shape[-2]
    columns = torch.arange(-left, x.shape[-1] + right) % x.shape[-1]
    return x[..., rows, :][..., columns]


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    if padding == "same":
        sizes = [d * (k - 1) for d, k in zip(pair(dilation), weight.shape[2:], strict=True)]
        x = wrap(x, sizes[0] // 2, sizes[0] - sizes[0] // 2, sizes[1] // 2, sizes[1] - sizes[1] // 2)
    else:
        rows, columns = pair(0 if padding == "valid" else padding)
        x = wrap(x, rows, rows, columns, columns)
    return torch.conv2d(x, weight, bias, stride, 0, dilation, groups)


def conv_transpose2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1, dilation: Any = 1,
) -> Tensor:  # fmt: skip
    reach = [d * (k - 1) // s + 1 for d, k, s in zip(pair(dilation), weight.shape[2:], pair(stride), strict=True)]
    size = [length * s for length, s in zip(x.shape[2:], pair(stride), strict=True)]
    start = [margin * s for margin, s in zip(reach, pair(stride), strict=True)]
    x = wrap(x, reach[0], reach[0], reach[1], reach[1])
    y = torch.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)
    return y[:, :, start[0] : start[0] + size[0], start[1] : start[1] + size[1]]


def max_pool2d(
    x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:  # fmt: skip
    assert not return_indices, "unpooling needs its own torus"
    x = for_pool(x, kernel_size, stride, padding, dilation, ceil_mode)
    return F.max_pool2d(x, kernel_size, stride, 0, dilation)


def avg_pool2d(
    x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    return F.avg_pool2d(for_pool(x, kernel_size, stride, padding, 1, ceil_mode), kernel_size, stride, 0)


def for_pool(x: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Tensor:
    """Wrap so that every window that torch would begin is whole."""
    after = []
    for length, k, s, p, d in zip(
        x.shape[-2:], pair(kernel_size), pair(stride or kernel_size), pair(padding), pair(dilation), strict=True
    ):
        room = length + 2 * p - d * (k - 1) - 1
        steps = -(-room // s) if ceil_mode and -(-room // s) * s < length + p else room // s
        after.append(steps * s - p + d * (k - 1) + 1 - length)
    rows, columns = pair(padding)
    x = wrap(x, rows, max(after[0], 0), columns, max(after[1], 0))
    return x[..., : x.shape[-2] + min(after[0], 0), : x.shape[-1] + min(after[1], 0)]


def interpolate(x: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", **options: Any) -> Tensor:
    if size is None:
        size = [int(length * scale) for length, scale in zip(x.shape[2:], pair_float(scale_factor), strict=True)]
    size = list(pair(size))
    whole = all(after % before == 0 for before, after in zip(x.shape[2:], size, strict=True))
    if options.get("align_corners") or not whole:
        return F.interpolate(x, size=size, mode=mode, **options)
    options.pop("recompute_scale_factor", None)
    scale = [after // before for before, after in zip(x.shape[2:], size, strict=True)]
    y = F.interpolate(
        wrap(x, 2, 2, 2, 2), size=[after + 4 * s for after, s in zip(size, scale, strict=True)], mode=mode, **options
    )
    return y[:, :, 2 * scale[0] : 2 * scale[0] + size[0], 2 * scale[1] : 2 * scale[1] + size[1]]


def pair_float(value: float | Sequence[float]) -> tuple[float, float]:
    return (value, value) if isinstance(value, (int, float)) else (value[0], value[-1])


def pad(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    amounts = [*pad, 0, 0, 0, 0][:4]
    if len(pad) > 4 or min(amounts) < 0:
        return F.pad(x, pad, mode, value)
    return wrap(x, amounts[2], amounts[3], amounts[0], amounts[1])


WRAPPED: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.conv2d: conv2d,
    torch.conv_transpose2d: conv_transpose2d,
    torch.max_pool2d: max_pool2d,
    F.max_pool2d: max_pool2d,
    torch.nn.functional._max_pool2d: max_pool2d,
    F.avg_pool2d: avg_pool2d,
    F.interpolate: interpolate,
    F.pad: pad,
}


@pytest.fixture
def torus() -> Callable[[], AbstractContextManager[Any]]:
    """A context in which images have no border."""
    return Torus


def perturb(module: nn.Module, seed: int = 0, amount: float = 0.1) -> None:
    """Add small random values to all parameters, and make batch statistics differ from channel to channel."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.dtype)
            scale = parameter.std() if parameter.numel() > 1 and parameter.std() > 0 else 1.0
            parameter.add_(amount * scale * noise)
        for name, buffer in module.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                draw = torch.rand(buffer.shape, generator=generator, dtype=torch.float64).to(buffer.dtype)
                buffer.copy_(draw - 0.5 if name.endswith("running_mean") else draw + 0.5)


@pytest.fixture(name="perturb")
def perturb_fixture() -> Callable[..., None]:
    """``perturb(module, seed=0)`` moves every parameter a little."""
    return perturb
