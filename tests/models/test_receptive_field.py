# SPDX-License-Identifier: Apache-2.0
"""The theoretical receptive field: by hand, against a NaN sent through the network, and against its gradient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseg.models import create_model
from denseg.models.interface import SegmentationModel
from denseg.models.receptive_field import receptive_field
from denseg.types import Geometry, SegmentationOutput


class Wrapped(SegmentationModel):
    """Any function of maps as a model."""

    def __init__(self, body: nn.Module, *, stride: int = 1, channels: int = 1) -> None:
        super().__init__()
        self.body = body
        self.num_classes = channels
        self.in_channels = channels
        self.geometry = Geometry(score_stride=stride, total_stride=stride)

    def forward(self, images: Tensor) -> SegmentationOutput:
        scores = self.body(images)
        return SegmentationOutput(scores, (), scores, scores)


def conv(kernel: int = 3, *, dilation: int = 1, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(1, 1, kernel, stride=stride, dilation=dilation, padding=dilation * (kernel // 2))


class Apply(nn.Module):
    """A plain function as a layer."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)


def written_in_place(x: Tensor) -> Tensor:
    result = torch.zeros_like(x)
    result[:, :, :, 1:] = x[:, :, :, :-1]
    return result


BODIES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "dilated": (lambda: nn.Sequential(conv(dilation=2), nn.ReLU(), conv(dilation=3)), 1),
    "pooled": (lambda: nn.Sequential(conv(), nn.MaxPool2d(2), conv(), nn.Upsample(scale_factor=2)), 2),
    "overlapping pool": (
        lambda: nn.Sequential(conv(7, stride=2), nn.MaxPool2d(3, 2, 1), nn.Upsample(scale_factor=4, mode="bilinear")),
        4,
    ),
    "average pool": (lambda: nn.Sequential(nn.AvgPool2d(2), conv(), nn.Upsample(scale_factor=2)), 2),
    "transposed": (lambda: nn.Sequential(conv(stride=2), nn.ConvTranspose2d(1, 1, 4, 2, 1)), 2),
    "wide transposed": (lambda: nn.Sequential(nn.MaxPool2d(4), nn.ConvTranspose2d(1, 1, 8, 4, 2)), 4),
    "crop and pad": (lambda: Apply(lambda x, layer: layer(F.pad(x, (3, 1, 2, 0)))[:, :, 2:, 3:-1], conv(5)), 1),
    "joined": (lambda: Apply(lambda x, a, b: torch.cat([a(x), b(x)], 1).sum(1, True), conv(), conv(dilation=4)), 1),
    "skip": (lambda: Apply(lambda x, layer: x + layer(x), conv(dilation=5)), 1),
    "reflected": (
        lambda: Apply(
            lambda x: F.conv2d(F.pad(x, (2,) * 4, "reflect"), torch.ones(1, 1, 5, 5)),
        ),
        1,
    ),
    "softmax of channels": (lambda: Apply(lambda x, layer: layer(x).softmax(1) * layer(x), conv()), 1),
}


def nan_field(model: SegmentationModel, side: int, axis: int) -> tuple[int, int]:
    """Send NaNs in at every phase; give the largest span and how many positions of its projection count."""
    stride = model.geometry.total_stride
    best = (0, 0)
    start = side // 2 // stride * stride
    reached = []
    for phase in range(stride):
        images = torch.randn((1, model.in_channels, side, side), generator=torch.Generator().manual_seed(0))
        images.select(2 + axis, start + phase).fill_(float("nan"))
        with torch.no_grad():
            reached.append(model(images).logits.isnan().any(1)[0].any(1 - axis).numpy())
    for phase in range(stride):
        sources = {
            start + offset - (place - phase)
            for offset, hit in enumerate(reached)
            for place in np.flatnonzero(hit)
            if (place - phase) % stride == 0
        }
        if sources:
            best = max(best, (max(sources) - min(sources) + 1, len(sources)))
    return best


@pytest.mark.parametrize("name", BODIES)
def test_it_is_what_a_nan_reaches(name: str) -> None:
    body, stride = BODIES[name]
    torch.manual_seed(0)
    model = Wrapped(body(), stride=stride).eval()
    field = receptive_field(model)
    for axis, size in enumerate((field.height, field.width)):
        span, count = nan_field(model, 64, axis)
        assert size == span
        assert field.marks is not None
        assert field.marks.any(axis=1 - axis).sum() == count


def test_by_hand() -> None:
    plain = receptive_field(Wrapped(nn.Sequential(conv(dilation=1), conv(dilation=2), conv(dilation=4))))
    assert (plain.size, plain.coverage) == (15, 1.0)
    gridded = receptive_field(Wrapped(nn.Sequential(conv(dilation=2), conv(dilation=2))))
    assert (gridded.size, gridded.coverage) == (9, 25 / 81)
    assert gridded.marks is not None
    assert np.array_equal(gridded.marks, np.outer(np.arange(9) % 2 == 0, np.arange(9) % 2 == 0))
    branches = receptive_field(Wrapped(Apply(lambda x, a, b: a(x) + b(x), conv(1), conv(dilation=6))))
    assert (branches.size, branches.coverage) == (13, 9 / 169)
    rows = receptive_field(Wrapped(nn.Conv2d(1, 1, (5, 1), padding=(2, 0))))
    assert rows[:4] == (5, 5, 1, 1.0)
    assert receptive_field(Wrapped(nn.Identity()))[:4] == (1, 1, 1, 1.0)


def test_marks_are_where_the_gradient_is() -> None:
    torch.manual_seed(1)
    body = nn.Sequential(conv(dilation=5), conv(stride=2), conv(dilation=6), nn.ConvTranspose2d(1, 1, 2, 2)).double()
    for parameter in body.parameters():
        nn.init.uniform_(parameter, 0.5, 1)
    model = Wrapped(body, stride=2)
    field = receptive_field(model)
    assert field.marks is not None
    assert 0 < field.coverage < 1
    found = set()
    for row in (32, 33):
        for column in (32, 33):
            images = torch.ones(1, 1, 64, 64, dtype=torch.float64, requires_grad=True)
            model(images).logits[0, 0, row, column].backward()
            support = images.grad[0, 0].numpy() != 0
            rows, columns = np.flatnonzero(support.any(1)), np.flatnonzero(support.any(0))
            found.add(support[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].tobytes())
    assert field.marks.tobytes() in found


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unet", {"width": 0.0625}),
        ("fcn", {"backbone": "test_resnet"}),
        ("fcn", {"backbone": "test_resnet", "output_stride": 16}),
    ],
)
def test_models_of_the_catalog_see_what_a_nan_reaches(name: str, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=2, **options).eval()  # type: ignore[arg-type]
    field = receptive_field(model)
    assert field.size is not None
    assert field.height == field.width
    stride = model.geometry.total_stride
    side = -(-(field.size + 2 * stride) // stride) * stride
    span, _ = nan_field(model, side, 0)
    assert field.size == span


@pytest.mark.parametrize("name", ["pspnet", "danet", "ccnet", "emanet", "hdnet", "nonlocal"])
def test_models_with_global_context_see_the_whole_image(name: str) -> None:
    with torch.device("meta"):
        field = receptive_field(create_model(name, num_classes=2, backbone="test_resnet"))
    assert field[:3] == (None, None, None)
    assert field.whole_image
    assert field.to_json() == {"size": None, "height": None, "width": None, "coverage": 1.0, "whole_image": True}


def test_what_joins_positions_joins_all() -> None:
    for function in (
        lambda x: x + x.mean(dim=(2, 3), keepdim=True),
        lambda x: x.flatten(2).softmax(-1).view_as(x),
        lambda x: x.cumsum(2).cumsum(3),
        lambda x: F.adaptive_avg_pool2d(x, 1) * x,
        lambda x: x.transpose(2, 3),
    ):
        assert receptive_field(Wrapped(Apply(function))).whole_image
    along = receptive_field(Wrapped(Apply(lambda x: x - x.amax(dim=3, keepdim=True))))
    assert along.whole_image


def test_a_part_written_into_a_tensor_counts() -> None:
    field = receptive_field(Wrapped(Apply(written_in_place)))
    assert field.whole_image or field.size is not None, "never less than what was written"


def test_the_model_stays_as_it_was() -> None:
    model = create_model("unet", num_classes=2, width=0.0625).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    receptive_field(model)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
