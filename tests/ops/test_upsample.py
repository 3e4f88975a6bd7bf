# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from denseg.ops import conv_on_upsampled, upsample


def reference(x, skip, weight, size):
    grown = x.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., : size[0], : size[1]]
    return F.conv2d(grown if skip is None else torch.cat([grown, skip], 1), weight, padding=1)


@pytest.fixture
def small_maps_too(monkeypatch):
    monkeypatch.setattr(upsample, "_TRANSPOSED_FROM", 2)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("skip_channels", [0, 2])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 9), (12, 8), (11, 8), (11, 7)])
def test_equals_growth_then_convolution(size, skip_channels, memory_format, small_maps_too):
    coarse = (-(-size[0] // 2), -(-size[1] // 2))
    inputs = [torch.randn(2, 3, *coarse, dtype=torch.float64).contiguous(memory_format=memory_format)]
    if skip_channels:
        skip = torch.randn(2, skip_channels, *size, dtype=torch.float64)
        inputs.append(skip.contiguous(memory_format=memory_format))
    inputs.append(torch.randn(4, 3 + skip_channels, 3, 3, dtype=torch.float64))
    for tensor in inputs:
        tensor.requires_grad_()
    x, weight = inputs[0], inputs[-1]
    skip = inputs[1] if skip_channels else None
    ours, theirs = conv_on_upsampled(x, skip, weight, size), reference(x, skip, weight, size)
    torch.testing.assert_close(ours, theirs)
    grad = torch.randn_like(theirs)
    for mine, other in zip(
        torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(theirs, inputs, grad), strict=True
    ):
        torch.testing.assert_close(mine, other)


def test_gradcheck(small_maps_too):
    x = torch.randn(1, 2, 2, 3, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    skip = torch.randn(1, 1, 4, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x, skip, weight: conv_on_upsampled(x, skip, weight, (4, 6)), (x, skip, weight))


def test_large_maps_take_the_transposed_form_and_stay_channels_last(monkeypatch):
    calls = []
    transposed = F.conv_transpose2d
    monkeypatch.setattr(F, "conv_transpose2d", lambda *args, **options: calls.append(1) or transposed(*args, **options))
    x = torch.randn(1, 4, 32, 32).contiguous(memory_format=torch.channels_last)
    skip = torch.randn(1, 2, 64, 64).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(5, 6, 3, 3) / 9
    out = conv_on_upsampled(x, skip, weight, (64, 64))
    assert calls == [1]
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, reference(x, skip, weight, (64, 64)), rtol=1e-4, atol=1e-5)
    conv_on_upsampled(x.contiguous(), skip, weight, (64, 64))
    conv_on_upsampled(x, skip[..., 1:, 1:], weight, (63, 63))
    assert calls == [1]
