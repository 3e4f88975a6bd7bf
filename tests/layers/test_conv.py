# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from torch import nn

from denseg.errors import UsageError
from denseg.layers import ConvBlock, init_classifier, init_conv


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
