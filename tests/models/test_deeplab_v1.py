# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from denseg.errors import UsageError
from denseg.models import create_model


def test_parameters_and_layers_are_the_released_networks():
    """``vgg16_20M.caffemodel``: 20.5 million parameters."""
    with torch.device("meta"):
        model = create_model("deeplab_v1", num_classes=21)
    vgg = 14_714_688
    assert sum(p.numel() for p in model.parameters()) == vgg + (9 * 512 * 1024 + 1024) + (1024**2 + 1024) + 21 * 1025
    assert sum(p.numel() for p in model.parameters()) == 20_505_429
    assert (model.head.fc6.dilation, model.head.fc6.padding) == ((12, 12), (12, 12))
    assert model.spec.arguments["output_stride"] == 8


def test_it_is_the_prototxt_layer_by_layer():
    """Five groups of convolutions; pools 3x3, the last two of stride 1; rate 2 after them; 321 pixels give 41."""
    torch.manual_seed(0)
    model = create_model("deeplab_v1", num_classes=3, channels=16).eval()
    convs = [module for module in model.backbone.modules() if isinstance(module, nn.Conv2d)]
    x = images = torch.randn(1, 3, 33, 65)
    with torch.no_grad():
        for group, (count, stride, rate) in enumerate([(2, 2, 1), (2, 2, 1), (3, 2, 1), (3, 1, 1), (3, 1, 2)]):
            for _ in range(count):
                conv = convs.pop(0)
                x = F.relu(F.conv2d(x, conv.weight, conv.bias, padding=rate, dilation=rate))
            x = F.max_pool2d(x, 3, stride=stride, padding=1)
            assert group < 5
        x = F.avg_pool2d(x, 3, stride=1, padding=1)
        assert x.shape[2:] == (5, 9)
        x = F.relu(model.head.fc7(F.relu(model.head.fc6(x))))
        torch.testing.assert_close(model(images).heatmap, model.classifier(x))
    assert not convs


def test_the_rate_follows_the_output_stride_and_options_are_checked():
    model = create_model("deeplab_v1", num_classes=3, backbone="test_resnet", output_stride=16, average_pool=False)
    assert model.head.fc6.dilation == (6, 6)
    with pytest.raises(UsageError) as rate:
        create_model("deeplab_v1", num_classes=3, backbone="test_resnet", dilation=0)
    assert str(rate.value) == "the dilation of fc6 must be at least 1, got 0"
    with pytest.raises(UsageError) as dropout:
        create_model("deeplab_v1", num_classes=3, backbone="test_resnet", dropout=1.0)
    assert str(dropout.value) == "dropout must be at least 0 and below 1, got 1.0"
