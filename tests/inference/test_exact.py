# SPDX-License-Identifier: Apache-2.0
"""Networks that see the whole image, in tiles that are equal to the whole."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from denseg.errors import UsageError
from denseg.inference.exact import measure_exact_reach
from denseg.inference.strategy import TileOptions
from denseg.inference.tiled import TiledModel, model_parts
from denseg.layers import (
    ASPP,
    ChannelAttention,
    ExpectationMaximizationAttention,
    GlobalContext,
    PositionAttention,
    PyramidPooling,
)
from denseg.types import Geometry, SegmentationOutput


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gate = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return x * F.adaptive_avg_pool2d(self.gate(x), 1).sigmoid()


class Net(nn.Module):
    """A small network of stride 4 with context layers in the middle."""

    def __init__(self, *layers, out=8):
        super().__init__()
        self.num_classes, self.in_channels = 3, 3
        self.geometry = Geometry(score_stride=4, total_stride=4)
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()
        )
        self.layers = nn.Sequential(*layers)
        self.head = nn.Conv2d(out, 3, 3, padding=1)

    def forward(self, images):
        x = self.layers(self.stem(images))
        heatmap = self.head(x)
        logits = F.interpolate(heatmap, size=images.shape[-2:], mode="bilinear")
        return SegmentationOutput(logits, (), heatmap, x)


def shaken(layer):
    """Random running statistics and residual weights: at their start some layers do nothing."""
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
    for name, parameter in layer.named_parameters():
        if name.endswith("gamma"):
            nn.init.constant_(parameter, 0.7)
    return layer


NETS = {
    "image pooling": (lambda: Net(ASPP(8, dilations=(1, 2), out_channels=8)), 1),
    "global context": (lambda: Net(GlobalContext(8, scale=2.0), out=16), 1),
    "pyramid pooling": (lambda: Net(PyramidPooling(8, out_channels=4), out=24), 4),
    "pyramid, corners": (lambda: Net(PyramidPooling(8, out_channels=4, align_corners=True), out=24), 4),
    "channel attention": (lambda: Net(ChannelAttention(8)), 1),
    "em attention": (lambda: Net(ExpectationMaximizationAttention(8, bases=5)), 3),
    "two of them": (lambda: Net(SqueezeExcite(8), nn.Conv2d(8, 8, 3, padding=1), ChannelAttention(8)), 2),
}


def tiled(model, **options):
    return TiledModel(model, **model_parts(model), options=TileOptions(**options))


@pytest.mark.parametrize("size", [(97, 130), (128, 64)])
@pytest.mark.parametrize("name", NETS)
def test_tiles_equal_the_whole(name, size):
    build, passes = NETS[name]
    torch.manual_seed(0)
    model = shaken(build()).eval()
    image = np.random.default_rng(0).normal(size=(3, *size)).astype(np.float32)
    image[:, : size[0] // 2] += 1.5  # what is global differs from what a tile would think
    whole = tiled(model, mode="whole").probabilities(image)
    exact = tiled(model, mode="exact", tile=64)
    strategy = exact.strategy(*size)
    assert (strategy.mode, strategy.exact) == ("exact", True)
    assert strategy.reason == f"{passes} passes for what the model takes from the whole image"
    assert len(strategy.plan) > 1
    np.testing.assert_allclose(exact.probabilities(image), whole, atol=1e-5)
    blended = tiled(model, mode="blend", tile=64).probabilities(image)
    assert np.abs(blended - whole).max() > 1e-3  # it was needed
    labels = exact.labels(image)
    assert (labels != whole.argmax(0)).mean() < 1e-3
    after = [
        block.values
        for block in exact.blocks(
            lambda top, left, tall, wide: image[:, top : top + tall, left : left + wide], strategy, start=2
        )
    ]
    rows, columns = strategy.plan[2].core
    np.testing.assert_array_equal(after[0], labels[rows, columns])


def test_dense_attention_is_no_sum():
    model = shaken(Net(PositionAttention(8))).eval()
    with pytest.raises(
        UsageError, match=r"^no tiles of this model are exact: the model sees the whole image at once; "
    ):
        tiled(model, mode="exact", tile=64).strategy(200, 200)


def test_too_many_quantities():
    model = Net(*(SqueezeExcite(8) for _ in range(9))).eval()
    message = (
        "no tiles of this model are exact: 9 layers of the model see the whole image, more than 8; leave the mode "
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
        tiled(model, mode="exact", tile=64).strategy(200, 200)


def test_a_local_model_needs_no_pass(build):
    model = build("unet", depth=1)
    strategy = tiled(model, mode="exact", tile=64).strategy(100, 100)
    assert (strategy.mode, strategy.exact) == ("halo", True)


def test_the_layers_are_as_before():
    model = shaken(Net(ExpectationMaximizationAttention(8, bases=5))).eval()
    before = set(vars(model.layers[0]))
    measure_exact_reach(model, in_channels=3, multiple=4)
    assert set(vars(model.layers[0])) == before
