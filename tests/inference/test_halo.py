# SPDX-License-Identifier: Apache-2.0
"""The measured reach: as derived for known networks, enough for exact tiles, and honest where no halo is enough."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from denseg.errors import UsageError
from denseg.inference.halo import Reach, measure_reach


def derived_reach(depth, up):
    """Walk the widest path of the same-padding U-Net: how far a score looks, at the worst position.

    A score at p needs, going back through the decoder, the interval [p - a, p + a]; growing by 2 turns an interval of
    the fine map into the cells that made it (one more for bilinear), pooling by 2 turns cells into pixels.
    """

    def back(low, high):
        intervals = []
        for _ in range(depth):
            low, high = low - 2, high + 2  # two 3x3 convolutions
            if up == "transposed":
                low, high = low // 2, high // 2
            else:  # pixel 2c reads cells c - 1 and c, pixel 2c + 1 reads c and c + 1
                low, high = (low - 1) // 2, (high + 1) // 2
            intervals.append((low, high))
        low, high = low - 2, high + 2
        for _ in range(depth):
            low, high = 2 * low, 2 * high + 1
            low, high = low - 2, high + 2
        return low, high

    worst = 0
    for position in range(2**depth):
        low, high = back(position, position)
        worst = max(worst, position - low, high - position)
    return worst


@pytest.mark.parametrize("up", ["transposed", "bilinear"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_reach_is_the_derived_one(build, depth, up):
    reach = measure_reach(build("unet", depth=depth, up=up), in_channels=3, multiple=2**depth)
    far = derived_reach(depth, up)
    assert reach.reason == f"one pixel reaches {far} pixels far"
    assert reach.halo == -(-far // 2**depth) * 2**depth
    assert reach.difference < 1e-5


def test_transposed_reaches_as_published():
    assert [derived_reach(depth, "transposed") for depth in (2, 3, 4)] == [23, 51, 107]


def test_pointwise_model_needs_no_halo():
    reach = measure_reach(nn.Conv2d(2, 3, 1).eval(), in_channels=2, multiple=1)
    assert reach == Reach(0, "one pixel reaches 0 pixels far", 0.0) or reach.difference < 1e-6
    assert reach.exact


def test_a_function_that_ignores_its_input_needs_no_halo():
    assert measure_reach(torch.zeros_like, in_channels=1, multiple=1).halo == 0


@pytest.mark.parametrize(("kernel", "halo"), [((1, 7), 3), ((7, 1), 3), ((9, 3), 4), ((1, 1), 0)])
def test_axes_are_measured_apart(kernel, halo):
    layer = nn.Conv2d(1, 2, kernel, padding=(kernel[0] // 2, kernel[1] // 2))
    assert measure_reach(layer.eval(), in_channels=1, multiple=1).halo == halo


def test_long_dilated_reach_needs_a_longer_strip():
    layer = nn.Conv2d(1, 1, 3, dilation=400, padding=400).eval()
    assert measure_reach(layer, in_channels=1, multiple=8).halo == 400


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d, lambda channels: nn.GroupNorm(1, channels)])
def test_normalising_over_the_image_is_global(build, norm):
    reach = measure_reach(build("unet", norm=norm), in_channels=3, multiple=4)
    assert reach == Reach(None, "the model sees the whole image at once")
    assert not reach.exact


def test_image_pooling_is_global(build):
    assert measure_reach(build("pooled"), in_channels=3, multiple=4).halo is None


@pytest.mark.parametrize("axis", [2, 3])
def test_strip_pooling_along_one_axis_is_global(axis):
    assert measure_reach(lambda x: x + x.mean(axis, keepdim=True), in_channels=2, multiple=4).halo is None


def test_resampling_that_depends_on_the_size_is_found_by_comparison(build):
    """Aligned corners: each score reads near pixels only, so the probe alone would call it local."""
    reach = measure_reach(build("unet", up="aligned"), in_channels=3, multiple=4)
    assert reach.halo is None
    assert reach.reason in {"the model's result depends on the image's size", "the model sees the whole image at once"}


def test_a_stride_that_is_too_small_is_found_by_comparison(build):
    def scores(x):
        return F.interpolate(F.avg_pool2d(F.pad(x, (0, 2, 0, 2)), 3), size=x.shape[2:])

    assert measure_reach(scores, in_channels=1, multiple=2).halo is None


def test_measuring_changes_nothing(build):
    model = build("unet")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = measure_reach(model, in_channels=3, multiple=4)
    assert torch.equal(torch.rand(4), expected)  # the caller's random numbers stay
    assert measure_reach(model, in_channels=3, multiple=4) == first
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training


def test_training_mode_is_refused(build):
    with pytest.raises(
        UsageError,
        match=r"^the reach of a model is measured in evaluation mode; call model\.eval\(\) first$",
    ):
        measure_reach(build("unet").train(), in_channels=3, multiple=4)


@pytest.mark.parametrize("reach", [Reach(64, "one pixel reaches 51 pixels far", 3e-7), Reach(None, "global")])
def test_json_round_trip(reach):
    assert Reach.from_json(reach.to_json()) == reach


def test_a_bare_number_is_pixels():
    assert Reach.from_json(48).halo == 48
    assert np.isscalar(Reach.from_json(48).halo)
