# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from torch import nn

from denseg.errors import UsageError
from denseg.layers import ConvBlock, init_classifier, init_conv, speed_up_depthwise


def test_is_convolution_norm_and_relu():
    block = ConvBlock(4, 6, dilation=2)
    reference = nn.Sequential(nn.Conv2d(4, 6, 3, padding=2, dilation=2, bias=False), nn.BatchNorm2d(6), nn.ReLU())
    reference[0].weight.data.copy_(block.conv.weight)
    x = torch.randn(2, 4, 7, 5)
    torch.testing.assert_close(block(x), reference(x))
    torch.testing.assert_close(block.eval()(x), reference.eval()(x))


def test_initialisation():
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 128, 3)
    init_conv(conv)
    assert math.isclose(conv.weight.std().item(), math.sqrt(2 / 576), rel_tol=0.02)
    assert conv.bias.abs().max() == 0
    classifier = init_classifier(nn.Conv2d(256, 64, 1))
    assert math.isclose(classifier.weight.std().item(), 0.01, rel_tol=0.02)
    assert classifier.bias.abs().max() == 0


def test_errors():
    with pytest.raises(UsageError) as error:
        ConvBlock(4, 0)
    assert str(error.value) == "a convolution needs at least 1 channel in and out, got 4 and 0"


def test_dilated_depthwise_convolutions_stay_what_they_are():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=3, dilation=3, groups=4),
        nn.Conv2d(4, 4, 5, padding=4, dilation=2, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2),
        nn.Conv2d(4, 4, 3, padding=0, dilation=2, groups=4),
    )
    x = torch.randn(2, 4, 20, 17).contiguous(memory_format=torch.channels_last)
    before = network(x)
    keys = network.state_dict().keys()
    speed_up_depthwise(network)
    assert [type(module) is nn.Conv2d for module in network] == [False, False, True, True]
    assert all(isinstance(module, nn.Conv2d) for module in network)
    assert network.state_dict().keys() == keys
    torch.testing.assert_close(network(x), before)
