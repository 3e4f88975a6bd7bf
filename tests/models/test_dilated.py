# SPDX-License-Identifier: Apache-2.0
"""The dilated front end and its context models against their layers written out, and their figures."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseg.errors import ShapeError, UsageError
from denseg.inference.canvas import run_on_canvas
from denseg.inference.strategy import TileOptions
from denseg.inference.tiled import TiledModel, model_parts
from denseg.models import create_model
from denseg.models.dilated_context import plug_in_context
from denseg.models.figures import heatmap_for, scores_for
from denseg.types import Geometry


def small(name: str, *, form: str = "paper", dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, form=form, width=0.02, **options).to(dtype).eval()
    nn.init.normal_(model.score.weight, std=0.3)
    return model


def meta(name: str, num_classes: int = 21, **options: Any) -> Any:
    with torch.device("meta"):
        return create_model(name, num_classes=num_classes, **options)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("form", ["paper", "modern"])
def test_parameters(form: str) -> None:
    front = meta("dilated_frontend", form=form)
    assert count(front) == 134_346_581
    assert count(meta("dilated_context", form=form)) == 134_346_581 + 28_392
    assert count(meta("dilated_context", form=form, size="large")) == 134_346_581 + 6_803_139
    assert count(meta("dilated_context", 19, form=form, layers=10).context) == 29_792


@pytest.mark.parametrize(("side", "scores"), [(900, 66), (1396, 128), (628, 32), (852, 60), (500, 16), (380, 1)])
def test_sizes_of_the_released_nets(side: int, scores: int) -> None:
    for name in ("dilated_frontend", "dilated_context"):
        model = meta(name, form="paper").eval()
        assert heatmap_for(side)(model) == scores == (side - 372) / 8
        assert scores_for(side)(model) == side - 372


def test_receptive_field_and_geometry() -> None:
    model = meta("dilated_frontend", form="paper")
    assert model.receptive_field == 380
    assert model.geometry == Geometry(186, 8, 8, 8, 4, 380, seam=4)
    assert meta("dilated_context", form="paper").geometry.seam == 4 + 8 * 33
    place = model.backbone.places["fc7"]
    assert (place.stride, float(place.offset)) == (8, 186 + 3.5), "the middle of the 8 pixels that a score stands for"


def front_end(model: Any, images: Tensor, *, padded: bool) -> Tensor:
    weights = dict(model.named_parameters())
    x = images
    rows = [(1, 2, 1), (2, 2, 1), (3, 3, 1), (4, 3, 1), (5, 3, 2)]
    for stage, convs, dilation in rows:
        for n in range(1, convs + 1):
            name = f"backbone.conv{stage}_{n}"
            x = F.relu(
                F.conv2d(
                    x, weights[f"{name}.weight"], weights[f"{name}.bias"],
                    padding=dilation * padded, dilation=dilation,
                )
            )  # fmt: skip
        if stage < 4:
            x = F.max_pool2d(x, 2, ceil_mode=True)
    x = F.relu(
        F.conv2d(x, weights["backbone.fc6.weight"], weights["backbone.fc6.bias"], padding=12 * padded, dilation=4)
    )
    x = F.relu(F.conv2d(x, weights["backbone.fc7.weight"], weights["backbone.fc7.bias"]))
    return F.conv2d(x, weights["score.weight"], weights["score.bias"])


@pytest.mark.parametrize(("form", "size"), [("paper", (396, 380)), ("modern", (45, 60))])
def test_equal_to_its_layers_written_out(form: str, size: tuple[int, int]) -> None:
    model = small("dilated_frontend", form=form)
    images = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        output = model(images)
        heatmap = front_end(model, images, padded=form == "modern")
        torch.testing.assert_close(output.heatmap, heatmap)
        expected = F.interpolate(heatmap, size=output.logits.shape[2:], mode="bilinear")
    torch.testing.assert_close(output.logits, expected)


@pytest.mark.parametrize("form", ["paper", "modern"])
def test_without_noise_the_module_only_truncates(form: str) -> None:
    front = small("dilated_frontend", form=form)
    whole = small("dilated_context", form=form, noise=0.0)
    images = torch.randn(1, 3, 396, 396, dtype=torch.float64)
    report = plug_in_context(whole, front, images)
    with torch.no_grad():
        before, after = front(images).heatmap, whole(images).heatmap
    torch.testing.assert_close(after, F.relu(before), rtol=0, atol=1e-5)
    changed = before.argmax(1) != after.argmax(1)
    negative = before.amax(1) <= 0
    assert not bool((changed & ~negative).any())
    assert report.changed == pytest.approx(changed.double().mean().item())
    assert report.negative == pytest.approx(negative.double().mean().item())
    assert str(report) == (
        f"the context module as initialised changes {report.changed:.2%} of the labels; "
        f"at {report.negative:.2%} of the positions no class has a positive score"
    )


def test_another_backbone() -> None:
    for name in ("dilated_frontend", "dilated_context"):
        model = create_model(name, num_classes=3, backbone="test_resnet").eval()
        assert model.geometry == Geometry(score_stride=8, total_stride=8)
        with torch.no_grad():
            assert model(torch.randn(1, 3, 40, 50)).heatmap.shape == (1, 3, 5, 7)


@pytest.mark.parametrize("name", ["dilated_frontend", "dilated_context"])
def test_tiles_stepping_by_8_equal_the_whole_where_they_share_the_seam(name: str) -> None:
    model = small(name, dtype=torch.float32)
    if name == "dilated_context":
        nn.init.normal_(model.context.convs[5].weight, std=0.3)  # a module that looks far
    geometry = model.geometry
    tile = 2 * (geometry.margin + geometry.seam) + 44
    tile += (4 - tile) % 8
    image = torch.randn((3, 90 + 2 * geometry.seam, 70), generator=torch.Generator().manual_seed(1))
    tiled = TiledModel(model, **model_parts(model), options=TileOptions(tile=tile))
    strategy = tiled.strategy(*image.shape[1:])
    assert strategy.exact
    assert len(strategy.plan) > 1
    with torch.inference_mode():
        whole = run_on_canvas(model, image[None], geometry).logits[0].softmax(dim=0).numpy()
    assert np.abs(tiled.probabilities(image.numpy(), strategy=strategy) - whole).max() < 1e-5
    without = TiledModel(model, **model_parts(model), options=TileOptions(tile=tile, overlap=0))
    strategy = without.strategy(*image.shape[1:])
    shared = 2 * (geometry.margin + geometry.seam)
    assert not strategy.exact
    assert strategy.reason == f"exact tiles of this model share {shared} pixels, these 0"
    assert np.abs(without.probabilities(image.numpy(), strategy=strategy) - whole).max() > 1e-4


def test_errors() -> None:
    with pytest.raises(ShapeError) as size:
        small("dilated_frontend")(torch.zeros(1, 3, 380, 400).double())
    assert str(size.value) == (
        "the paper's front end takes heights and widths 380, 388, 396, … (8 k + 4), got 380x400; predict by tiles, or "
        "use form='modern', which takes any size"
    )
    for name in ("dilated_frontend", "dilated_context"):
        with pytest.raises(UsageError, match=f"^{re.escape('width must be above 0, got 0.0')}$"):
            create_model(name, num_classes=3, width=0.0)
        expected = "width scales the front end's own VGG16; a backbone has its own channels"
        with pytest.raises(UsageError, match=f"^{re.escape(expected)}$"):
            create_model(name, num_classes=3, width=0.5, backbone="test_resnet")
