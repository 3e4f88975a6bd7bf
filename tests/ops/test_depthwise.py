# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from denseg.ops import depthwise_atrous_conv2d


def channels_last(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("dilation", [1, 2, 4, 7, 12, 18])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5), (16, 16), (33, 20)])
def test_equals_torch_in_every_form(size, dilation, kernel):
    x = channels_last(2, 3, *size).requires_grad_()
    weight = torch.randn(3, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    ours = depthwise_atrous_conv2d(x, weight, dilation)
    theirs = F.conv2d(x, weight, None, 1, dilation * (kernel // 2), dilation, 3)
    torch.testing.assert_close(ours, theirs)
    grad = torch.randn_like(theirs)
    for mine, reference in zip(
        torch.autograd.grad(ours, (x, weight), grad), torch.autograd.grad(theirs, (x, weight), grad), strict=True
    ):
        torch.testing.assert_close(mine, reference)


@pytest.mark.parametrize("dilation", [2, 8])
def test_gradcheck(dilation):
    x = channels_last(1, 2, 9, 7).requires_grad_()
    weight = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x, weight: depthwise_atrous_conv2d(x, weight, dilation), (x, weight))


@pytest.mark.parametrize("dilation", [2, 8, 18])
def test_bias(dilation):
    x = channels_last(2, 3, 20, 17)
    weight = torch.randn(3, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64)
    reference = F.conv2d(x, weight, bias, 1, dilation, dilation, 3)
    torch.testing.assert_close(depthwise_atrous_conv2d(x, weight, dilation, bias), reference)
    with torch.no_grad():
        torch.testing.assert_close(depthwise_atrous_conv2d(x, weight, dilation, bias), reference)


def test_memory_format_stays():
    x = channels_last(2, 4, 20, 20)
    weight = torch.randn(4, 1, 3, 3, dtype=torch.float64)
    for dilation in (2, 8):
        assert depthwise_atrous_conv2d(x, weight, dilation).is_contiguous(memory_format=torch.channels_last)
    assert depthwise_atrous_conv2d(x.contiguous(), weight, 8).is_contiguous()


@pytest.mark.parametrize("dilation", [2, 8, 18])
def test_autocast_computes_in_bfloat16_and_gives_gradients_of_the_input(dilation):
    x = channels_last(2, 4, 20, 20, dtype=torch.float32).requires_grad_()
    weight = torch.randn(4, 1, 3, 3, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = depthwise_atrous_conv2d(x, weight, dilation)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), depthwise_atrous_conv2d(x, weight, dilation), rtol=0.05, atol=0.1)
    out.float().sum().backward()
    assert x.grad.dtype == weight.grad.dtype == torch.float32


def test_exported_graphs_hold_the_plain_convolution():
    class Layer(torch.nn.Module):
        def forward(self, x, weight):
            return depthwise_atrous_conv2d(x, weight, 8)

    arguments = (channels_last(2, 4, 20, 20, dtype=torch.float32), torch.randn(4, 1, 3, 3))
    program = torch.export.export(Layer(), arguments)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets == ["aten.conv2d.default"]
    torch.testing.assert_close(program.module()(*arguments), Layer()(*arguments))
