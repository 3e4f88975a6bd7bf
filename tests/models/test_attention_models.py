# SPDX-License-Identifier: Apache-2.0
"""Heads of HDNet, DANet, CCNet, EMANet, the non-local network and PSPNet: parameters, wiring and ablations."""

from __future__ import annotations

import re

import pytest
import torch

from denseg.errors import UnknownNameError
from denseg.models import create_model


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("hdnet", 23_955_773),  # published to two digits: 23.96 M
        ("danet", 24_016_179),  # 24.02 M
        ("ccnet", 23_954_620),  # 23.95 M
        ("emanet", 11_159_355),  # 11.16 M
        ("pspnet", 23_104_059),  # 23.10 M
    ],
)
def test_parameters_of_the_head_at_59_classes(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=59, backbone="test_resnet")
        wide = type(model)(59, backbone=_WideBackbone())
    counted = {key: p for key, p in wide.named_parameters() if not key.startswith(("backbone.", "auxiliary."))}
    assert sum(p.numel() for p in counted.values()) == parameters


class _WideBackbone(torch.nn.Module):
    """The channels of ResNet-101's last two levels, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        from denseg.types import FeatureSpec

        self.specs = (FeatureSpec(1024, 8), FeatureSpec(2048, 8))
        self.in_channels = 3
        self.output_stride = 8


def test_hdnet_sums_its_branches_into_the_features_of_the_hfd_loss() -> None:
    model = create_model("hdnet", num_classes=3, backbone="test_resnet").eval()
    x = torch.randn(1, 3, 32, 48)
    level = model.backbone(x)[-1]
    output = model(x)
    torch.testing.assert_close(output.features, model.spatial(level) + model.channel(level))
    torch.testing.assert_close(output.heatmap, model.classifier(output.features))


def test_hdnet_without_attention_has_two_convolutions_in_its_spatial_branch() -> None:
    count = {
        attention: sum(
            p.numel()
            for p in create_model("hdnet", num_classes=3, backbone="test_resnet", attention=attention).parameters()
        )
        for attention in (True, False)
    }
    model = create_model("hdnet", num_classes=3, backbone="test_resnet")
    assert count[True] - count[False] == sum(p.numel() for p in model.spatial[1].parameters())


def test_hdnet_hands_options_to_its_attention() -> None:
    options = {"gate": "sigmoid", "rings": True}
    model = create_model("hdnet", num_classes=3, backbone="test_resnet", windows=[3, 5], attention_options=options)
    assert model.spatial[1].gate == "sigmoid"
    assert model.spatial[1].relation.rings
    assert model.spatial[1].relation.windows == (3, 5)
    assert model.spec.arguments["attention_options"] == options


def test_danet_supervises_each_branch_alone() -> None:
    model = create_model("danet", num_classes=3, backbone="test_resnet").eval()
    x = torch.randn(1, 3, 32, 32)
    level, output = model.backbone(x)[-1], model(x)
    assert len(output.aux_logits) == 2
    torch.testing.assert_close(output.features, model.position(level) + model.channel(level))


def test_the_context_frame_takes_any_layer_by_name() -> None:
    options = {"layer_options": {"recurrence": 1}}
    model = create_model("context", num_classes=3, backbone="test_resnet", layer="criss_cross_attention", **options)
    assert model.layer.recurrence == 1
    assert model.spec.arguments["layer_options"] == {"recurrence": 1}
    with pytest.raises(UnknownNameError, match=re.escape("no layer named 'asp'. Did you mean 'aspp'?")):
        create_model("context", num_classes=3, backbone="test_resnet", layer="asp")


def test_pspnet_puts_the_backbones_map_before_its_regions() -> None:
    model = create_model("pspnet", num_classes=3, backbone="test_resnet").eval()
    x = torch.randn(1, 3, 64, 64)
    level = model.backbone(x)[-1]
    pooled = model.pyramid(level)
    torch.testing.assert_close(pooled[:, : level.shape[1]], level)
    torch.testing.assert_close(model(x).features, model.fusion(pooled))
