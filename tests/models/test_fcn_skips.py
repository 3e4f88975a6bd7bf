# SPDX-License-Identifier: Apache-2.0
"""The modern FCN: any subset of skips on any backbone, equal to its sum written out."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from denseg.errors import UnsupportedError, UsageError
from denseg.models import create_model
from denseg.types import Geometry

SUBSETS = [subset for length in range(5) for subset in itertools.combinations((16, 8, 4, 2), length)]


def build(name: str = "fcn8s", **options: Any) -> Any:
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, backbone="test_resnet", **options).double().eval()
    for child in model.children():
        if isinstance(child, nn.Conv2d):
            nn.init.normal_(child.weight, std=0.3)
            nn.init.normal_(child.bias, std=0.3)
    return model


@pytest.mark.parametrize("skips", SUBSETS, ids=str)
def test_equal_to_the_sum_written_out(skips: tuple[int, ...]) -> None:
    model = build(skips=skips)
    images = torch.randn(1, 3, 45, 70, dtype=torch.float64)
    with torch.no_grad():
        levels = dict(zip((2, 4, 8, 16, 32), model.backbone(images), strict=True))
        scores = F.conv2d(levels[32], model.score_fr.weight, model.score_fr.bias)
        for stride in skips:
            layer = model.get_submodule(f"score_pool{stride.bit_length() - 1}")
            score = F.conv2d(levels[stride], layer.weight, layer.bias)
            scores = F.interpolate(scores, size=score.shape[2:], mode="bilinear") + score
        output = model(images)
        torch.testing.assert_close(output.heatmap, scores)
        torch.testing.assert_close(output.logits, F.interpolate(scores, size=(45, 70), mode="bilinear"))
    assert model.geometry == Geometry(score_stride=min(skips, default=32), total_stride=32)


def test_the_names_differ_in_their_skips() -> None:
    wanted = {"fcn32s": [], "fcn16s": [16], "fcn8s": [16, 8]}
    for name, skips in wanted.items():
        assert build(name).spec.arguments["skips"] == skips
    assert build("fcn8s", skips=None).spec.arguments["skips"] == [16, 8]


def test_a_new_skip_changes_nothing_at_first() -> None:
    torch.manual_seed(0)
    coarse = create_model("fcn32s", num_classes=3, backbone="test_resnet").eval()
    fine = create_model("fcn8s", num_classes=3, backbone="test_resnet").eval()
    assert not fine.load_state_dict(coarse.state_dict(), strict=False).unexpected_keys
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = F.interpolate(coarse(images).heatmap, size=(4, 4), mode="bilinear")
        expected = F.interpolate(expected, size=(8, 8), mode="bilinear")
        torch.testing.assert_close(fine(images).heatmap, expected)


def test_fc6_and_fc7_where_asked() -> None:
    model = build(channels=12)
    assert (model.fc6.kernel_size, model.fc6.out_channels, model.fc7.kernel_size) == ((7, 7), 12, (1, 1))
    images = torch.randn(1, 3, 45, 70, dtype=torch.float64)
    with torch.no_grad():
        output = model(images)
        expected = F.relu(model.fc7(F.relu(model.fc6(model.backbone(images)[-1]))))
    torch.testing.assert_close(output.features, expected)
    assert build().fc6 is None


def test_errors() -> None:
    with pytest.raises(UsageError) as coarse:
        build(skips=[16, 32])
    assert str(coarse.value) == "skips are strides finer than the output stride 32, got [16, 32]"
    with pytest.raises(UsageError) as channels:
        build(channels=0)
    assert str(channels.value) == "channels must be at least 1, got 0"
    with pytest.raises(UnsupportedError) as level:
        create_model("fcn8s", num_classes=3, backbone="test_convnext", skips=[2])
    assert str(level.value).startswith("an FCN with a skip of stride 2 needs a feature map of stride 2, backbone ")
