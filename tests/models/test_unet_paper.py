# SPDX-License-Identifier: Apache-2.0
"""The ways in which the paper's U-Net keeps the image's size, each against the valid net or written out."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from denseg.errors import UsageError
from denseg.inference.halo import measure_reach
from denseg.models import create_model
from denseg.ops import reflect_pad
from denseg.types import Geometry

WAYS = ("interpolate", "transposed", "same", "overlap_tile")


def build(keep_size: str = "none", **options: Any) -> Any:
    torch.manual_seed(0)
    model = create_model(
        "unet", num_classes=2, form="paper", **{"in_channels": 1, "width": 1 / 16, "keep_size": keep_size, **options}
    )
    return model.double().eval()


def picture(height: int, width: int) -> torch.Tensor:
    return torch.randn(1, 1, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("keep_size", WAYS)
def test_size_and_parameters_stay(keep_size: str) -> None:
    with torch.device("meta"):
        model = create_model("unet", num_classes=2, in_channels=1, form="paper", keep_size=keep_size)
    assert sum(parameter.numel() for parameter in model.parameters()) == 31_030_658
    assert model.geometry == Geometry(total_stride=16)
    with torch.no_grad():
        for levels in (1, 2, 5):
            small = build(keep_size, levels=levels)
            for size in ((1, 1), (57, 90), (188, 204)):
                assert small(picture(*size)).logits.shape == (1, 2, *size)


@pytest.mark.parametrize(("levels", "margin", "least"), [(1, 2, 8), (2, 8, 20), (3, 20, 44), (4, 44, 92), (5, 92, 188)])
def test_margins_by_depth(levels: int, margin: int, least: int) -> None:
    model = build(levels=levels)
    assert (model.geometry.margin, model.geometry.min_size) == (margin, least)
    with torch.no_grad():
        assert model(picture(least, least + model.geometry.size_step)).logits.shape[2] == least - 2 * margin


@pytest.mark.parametrize("size", [(96, 112), (33, 50)])
def test_overlap_tile_is_the_valid_net_on_the_mirrored_image(size: tuple[int, int]) -> None:
    inside, valid = build("overlap_tile"), build()
    valid.load_state_dict(inside.state_dict())
    image = picture(*size)
    height, width = (side + (4 - side) % 16 for side in size)  # 16 k + 4 comes out of a valid net
    mirrored = reflect_pad(image, (92, 92 + width - size[1], 92, 92 + height - size[0]))
    with torch.no_grad():
        expected = valid(mirrored).logits[..., : size[0], : size[1]]
        torch.testing.assert_close(inside(image).logits, expected)


@pytest.mark.parametrize("padding", ["zero", "mirror"])
def test_padding_changes_nothing_far_from_the_border(padding: str) -> None:
    valid, same = build(levels=3), build("same", padding=padding, levels=3)
    same.load_state_dict(valid.state_dict())
    image = picture(108, 108)
    with torch.no_grad():
        inner = valid(image).logits  # pixels 20..87
        padded = same(image[..., 2:, 2:]).logits  # pools of the valid net begin 2 + 4 pixels in: 2 modulo 4
    torch.testing.assert_close(padded[..., 28:68, 28:68], inner[..., 10:50, 10:50])
    assert not torch.allclose(padded[..., 18, 18:58], inner[..., 0, 0:40])


def test_mirrored_padding_keeps_a_constant_image_constant() -> None:
    # of one level: up-convolutions weigh the four pixels of a cell differently
    image = torch.ones(1, 1, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        mirror, zero = (build("same", padding=padding, levels=1)(image).logits for padding in ("mirror", "zero"))
    torch.testing.assert_close(mirror, mirror[..., :1, :1].expand_as(mirror))
    assert zero.std() > 1e-3


def test_transposed_gives_back_what_was_taken() -> None:
    """Every grown map meets a skip of its own size, down to the image's."""
    model = build("transposed")
    down: list[int] = []
    up: list[int] = []
    for convs in model.contracting:
        convs.register_forward_hook(lambda _, inputs, output: down.append(output.shape[-2]))
    for grow in model.up:
        grow.register_forward_hook(lambda _, inputs, output: up.append(output.shape[-2]))
    with torch.no_grad():
        assert model(picture(572, 108)).logits.shape[2] == 572
    assert [type(layer) for layer in model.contracting[-1]][::2] == [nn.Conv2d, nn.ConvTranspose2d]
    assert up == down[-2::-1] == [64, 136, 280, 568]


def test_interpolate_with_one_level_is_the_valid_net_stretched() -> None:
    stretched, valid = build("interpolate", levels=1), build(levels=1)
    valid.load_state_dict(stretched.state_dict())
    image = picture(30, 44)
    with torch.no_grad():
        expected = F.interpolate(valid(image).logits, size=(30, 44), mode="bilinear")
    torch.testing.assert_close(stretched(image).logits, expected)


@pytest.mark.parametrize(
    ("keep_size", "exact"), [("transposed", True), ("same", True), ("overlap_tile", True), ("interpolate", False)]
)
def test_which_ways_tile_exactly(keep_size: str, exact: bool) -> None:
    model = build(keep_size, levels=3).float()
    assert measure_reach(model, in_channels=1, multiple=4).exact == exact


def test_gradients_reach_every_parameter() -> None:
    for keep_size in WAYS:
        model = build(keep_size, levels=3)
        model(picture(48, 60)).logits.square().sum().backward()
        assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters()), keep_size


def test_errors() -> None:
    for options, expected in (
        ({"keep_size": "crop"}, "keep_size is one of none, interpolate, transposed, same, overlap_tile, got 'crop'"),
        ({"padding": "edge"}, "padding is 'zero' or 'mirror', got 'edge'"),
        ({"levels": 6}, "levels is 1 to 5, got 6"),
        ({"width": -1.0}, "width must be above 0, got -1.0"),
    ):
        with pytest.raises(UsageError, match=f"^{re.escape(expected)}$"):
            build(**options)
