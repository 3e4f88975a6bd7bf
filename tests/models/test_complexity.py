# SPDX-License-Identifier: Apache-2.0
"""Parameters and multiply-adds: by hand, as torch counts them, and summing up."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from denseg.errors import UsageError
from denseg.models import MODELS, create_model
from denseg.models.complexity import LayerCost, count_macs, count_parameters, describe
from denseg.types import Geometry


class Small(nn.Module):
    """Of every kind of layer that counts, one."""

    def __init__(self) -> None:
        super().__init__()
        self.num_classes, self.in_channels, self.geometry = 4, 3, Geometry(total_stride=2)
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4, bias=False)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.dense = nn.Linear(4, 4)
        self.dense.weight.requires_grad_(False)
        self.again = self.dense

    def forward(self, images: Tensor) -> Tensor:
        x = self.grouped(self.norm(self.down(images))).relu()
        flat = x.flatten(2)  # (B, 8, N)
        x = (flat @ flat.transpose(1, 2) @ flat).view_as(x)
        x = self.up(x).movedim(1, -1)
        return self.again(self.dense(x)).movedim(-1, 1)


def test_by_hand() -> None:
    model = Small()
    result = describe(model, (10, 12))  # type: ignore[arg-type]
    n = 5 * 6
    expected = {
        "": 2 * 8 * 8 * n,
        "down": n * 8 * 3 * 9,
        "norm": 0,
        "grouped": n * 8 * 2 * 9,
        "up": n * 8 * 4 * 4,
        "dense": 2 * 10 * 12 * 4 * 4,
    }
    assert {layer.name: layer.macs for layer in result.layers} == expected
    assert result.macs == sum(expected.values())
    parameters = {"down": 3 * 8 * 9 + 8, "norm": 16, "grouped": 8 * 2 * 9, "up": 8 * 4 * 4 + 4, "dense": 4 * 4 + 4}
    assert {layer.name: layer.parameters for layer in result.layers if layer.parameters} == parameters
    assert (result.parameters, result.trainable) == (sum(parameters.values()), sum(parameters.values()) - 16)
    assert result.output_stride == 2
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())
    assert result.layers[0] == LayerCost("down", "Conv2d", (1, 3, 10, 12), (1, 8, 5, 6), 224, n * 8 * 3 * 9)


def test_the_papers_unet_has_the_parameters_of_the_paper() -> None:
    model = create_model("unet", num_classes=2, in_channels=1, form="paper")
    assert count_parameters(model) == 31_030_658


@pytest.mark.parametrize("name", ["unet", "deeplab_v3_plus", "fcn"])
def test_equals_torchs_counter(name: str) -> None:
    model = create_model(name, num_classes=5, backbone="test_resnet").eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 65, 43))
    assert count_macs(model, 65, 43) == counter.get_total_flops() // 2


def test_the_rows_sum_to_the_totals_and_the_model_is_left_as_it_was() -> None:
    for name in MODELS:
        options = {"layer": "criss_cross_attention"} if name == "context" else {}
        takes_backbone = "backbone" in inspect.signature(MODELS[name].modern).parameters
        options |= {"backbone": "test_resnet"} if takes_backbone else {"width": 0.125}
        model = create_model(name, num_classes=3, **options).train()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        result = describe(model, (64, 96))
        assert sum(layer.macs for layer in result.layers) == result.macs
        assert sum(layer.parameters for layer in result.layers) == result.parameters == count_parameters(model)
        assert model.training
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert not any(module._forward_hooks for module in model.modules())


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^an image has at least 1x1 pixels, got 0x5$"):
        describe(create_model("unet", num_classes=2, width=0.0625), (0, 5))
