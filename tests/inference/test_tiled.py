# SPDX-License-Identifier: Apache-2.0
"""Tiled equals whole, for every model that has a finite reach; and what is approximate says so."""

from __future__ import annotations

import re
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from denseg.errors import ShapeError, UsageError
from denseg.inference.canvas import fit_size, run_on_canvas
from denseg.inference.halo import Reach
from denseg.inference.runtime import SeamReport, plan_tiles, run_plan
from denseg.inference.strategy import TileOptions
from denseg.inference.tiled import TiledModel, model_parts
from denseg.inference.views import Views
from denseg.types import Geometry


def tiled(model, *, views=None, reach=None, **options):
    return TiledModel(model, **model_parts(model), reach=reach, views=views, options=TileOptions(**options))


def picture(channels, height, width, seed=0):
    return np.random.default_rng(seed).standard_normal((channels, height, width)).astype(np.float32)


def reader(image):
    return lambda top, left, height, width: image[:, top : top + height, left : left + width]


def whole_logits(model, image):
    with torch.inference_mode():
        return run_on_canvas(model, torch.from_numpy(image)[None], model.geometry).logits[0].numpy()


def softmax(logits):
    e = np.exp(logits - logits.max(axis=0))
    return e / e.sum(axis=0)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 250), st.integers(1, 250), st.integers(4, 12), st.sampled_from(["transposed", "bilinear"]))
def test_halo_tiles_equal_the_whole_image(build, height, width, extra, up):
    model = build("unet", up=up)
    halo = {"transposed": 24, "bilinear": 28}[up]
    image = picture(3, height, width, seed=height * 401 + width)
    whole = whole_logits(model, image)
    part = tiled(model, reach=Reach(halo, "known"), tile=2 * halo + 4 * (extra + 1))
    probabilities = part.probabilities(image)
    assert np.abs(probabilities - softmax(whole)).max() < 1e-5
    assert (part.labels(image) == whole.argmax(axis=0)).all()


@pytest.mark.parametrize("up", ["transposed", "bilinear", "nearest"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_exact_arithmetic_is_equal_bit_for_bit(build, depth, up):
    """Whole numbers add up without rounding in any order, so that every difference would be missing context."""
    model = build("unet", depth=depth, up=up)
    generator = torch.Generator().manual_seed(1)
    for value in model.parameters():
        kept = torch.rand(value.shape, generator=generator) < 1 / 24
        value.data = torch.randint(-1, 2, value.shape, generator=generator) * kept.float()
        if value.ndim == 4 and value.shape[2] > 1:
            value.data[:3, :3, 1, 1] += torch.eye(3)  # the signal comes through
    model.head.weight.data.fill_(1)
    image = np.random.default_rng(0).integers(-4, 5, (3, 201, 333)).astype(np.float32)
    part = tiled(model, tile=160)
    strategy = part.strategy(201, 333)
    assert strategy.exact
    assert len(strategy.plan) > 1
    whole = whole_logits(model, image)
    assert np.abs(whole).max() < 2**24
    assert len(np.unique(whole)) > 5
    for tile, values in run_plan(
        strategy.plan, reader(image), lambda windows: part._scores(windows)[0].detach().numpy()
    ):
        assert (tile.crop(values) == whole[:, tile.core[0], tile.core[1]]).all()


@pytest.mark.parametrize("size", [(1, 1), (7, 90), (64, 65), (130, 71)])
def test_valid_net_tiles_equal_the_whole_mirrored_image(build, size):
    model = build("valid")
    image = picture(1, *size)
    part = tiled(model, tile=64)
    assert part.strategy(*size).mode == "overlap_tile"
    whole = whole_logits(model, image)
    assert whole.shape == (2, *size)
    assert np.abs(part.probabilities(image) - softmax(whole)).max() < 1e-6


def test_small_images_are_computed_whole(build):
    model = build("unet")
    strategy = tiled(model).strategy(100, 90)
    assert strategy.mode == "whole"
    assert strategy.plan.window == (100, 92)
    assert str(strategy) == "100 x 90 pixels in one window of 100 x 92; mode whole, exact: the image fits into memory"


def test_a_small_memory_limit_gives_exact_tiles(build):
    model = build("unet")
    part = tiled(model, memory=20_000_000)
    strategy = part.strategy(2000, 3000)
    assert strategy.mode == "halo"
    assert strategy.exact
    assert strategy.plan.window[0] ** 2 * part.bytes_per_pixel() <= 20_000_000
    assert strategy.reason == "one pixel reaches 23 pixels far"


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6000), st.integers(1, 6000), st.integers(3_000_000, 60_000_000))
def test_chosen_tiles_are_even_and_within_memory(build, height, width, memory):
    for kind, halo, bytes_per_pixel in (("unet", Reach(24, "known"), 300.0), ("valid", None, 300.0)):
        part = tiled(build(kind), memory=memory, reach=halo)
        part._bytes = bytes_per_pixel  # measured once for all
        strategy = part.strategy(height, width)
        plan = strategy.plan
        assert strategy.exact
        assert plan.window[0] * plan.window[1] * bytes_per_pixel <= memory
        if strategy.mode == "halo":
            side = int((memory / bytes_per_pixel) ** 0.5) // 4 * 4
            largest = plan_tiles(height, width, tile=min(side, 2048), overlap=48, multiple=4)
            assert (plan.rows, plan.columns) == (largest.rows, largest.columns)
            assert plan.window[0] * plan.window[1] <= largest.window[0] * largest.window[1]


def test_a_tile_that_holds_the_image_is_the_whole(build):
    strategy = tiled(build("unet"), tile=512).strategy(100, 500)
    assert (strategy.mode, strategy.reason) == ("whole", "the image fits into one tile")


def test_an_overlap_below_the_halo_is_said_to_be_approximate(build):
    strategy = tiled(build("unet"), tile=96, overlap=16).strategy(200, 200)
    assert not strategy.exact
    assert strategy.reason == "exact tiles share 48 pixels (one pixel reaches 23 pixels far), these 16"


def test_global_model_is_blended_and_its_seams_measured(build):
    model = build("pooled")
    part = tiled(model, tile=64)
    strategy = part.strategy(150, 200)
    assert (strategy.mode, strategy.exact) == ("blend", False)
    assert strategy.reason == "the model sees the whole image at once"
    image = picture(3, 150, 200)
    seams = SeamReport()
    labels = np.full((150, 200), 255)
    for block in part.blocks(reader(image), strategy, seams=seams):
        rows, columns = block.values.shape
        labels[block.top : block.top + rows, block.left : block.left + columns] = block.values
    assert (labels == part.labels(image)).all()
    assert labels.max() < 3
    assert seams.pixels > 0
    assert 0 < seams.mean <= seams.largest < 1
    probabilities = part.probabilities(image)
    assert np.abs(probabilities.sum(axis=0) - 1).max() < 1e-5
    gap = np.abs(probabilities - softmax(whole_logits(model, image))).max()
    assert 0 < gap <= 0.5  # approximate, and not nonsense


def test_blending_in_panels_changes_nothing(build, monkeypatch):
    """Wide images are blended a few columns of tiles at a time, so that memory does not grow with their width."""
    model = build("pooled")
    image = picture(3, 150, 330)
    part = tiled(model, tile=64, overlap=32)
    strategy = part.strategy(150, 330)
    expected = part.probabilities(image, strategy=strategy)
    for columns in (1, 2, 3):
        narrow = tiled(model, tile=64, overlap=32, memory=columns * 64 * 64 * 4 * 3 * 2)
        blocks = list(narrow.blocks(reader(image), strategy, result="probabilities"))
        assert max(block.values.shape[2] for block in blocks) <= 64 + 48 * (columns - 1)
        result = np.full_like(expected, np.nan)
        for block in blocks:
            _, rows, wide = block.values.shape
            target = result[:, block.top : block.top + rows, block.left : block.left + wide]
            assert np.isnan(target).all()
            target[...] = block.values
        assert np.abs(result - expected).max() < 1e-6


@pytest.mark.parametrize(("kind", "memory"), [("unet", 2 << 30), ("pooled", 2 << 30), ("pooled", 200_000)])
def test_work_that_goes_on_gives_the_same_parts(build, kind, memory):
    model = build(kind)
    image = picture(3, 260, 210)
    part = tiled(model, tile=64, overlap=None if kind == "unet" else 32, memory=memory)
    strategy = part.strategy(260, 210)
    blocks = list(part.blocks(reader(image), strategy, result="probabilities"))
    assert len(blocks) > 4
    for start in (0, 1, len(blocks) // 2, len(blocks) - 1, len(blocks)):
        again = list(part.blocks(reader(image), strategy, result="probabilities", start=start))
        assert len(again) == len(blocks) - start
        for old, new in zip(blocks[start:], again, strict=True):
            assert old[:2] == new[:2]
            assert (old.values == new.values).all()


def test_global_model_on_a_small_image_is_exact(build):
    model = build("pooled")
    image = picture(3, 50, 60)
    part = tiled(model)
    assert part.strategy(50, 60).exact
    assert (part.labels(image) == whole_logits(model, image).argmax(axis=0)).all()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("unet", {"mode": "fast"}, "a tile mode is one of auto, whole, halo, overlap_tile, blend, exact; got 'fast'"),
        (
            "unet",
            {"mode": "overlap_tile"},
            "'overlap_tile' is for models whose result is smaller than their input; leave the mode to 'auto'",
        ),
        (
            "valid",
            {"mode": "halo"},
            "this model's result is 20 pixels smaller than its input on each side: it is tiled by 'overlap_tile', "
            "not 'halo'",
        ),
    ],
)
def test_modes_that_do_not_fit_are_refused(build, kind, options, message):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        tiled(build(kind), **options)


def test_halo_for_a_global_model_is_refused(build):
    message = "no halo makes tiles of this model exact: the model sees the whole image at once; use the mode 'blend'"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        tiled(build("pooled"), mode="halo", tile=64).strategy(200, 200)


def test_training_mode_and_wrong_bands_are_refused(build):
    with pytest.raises(UsageError, match=r"^inference needs the model in evaluation mode; call model\.eval\(\) first$"):
        tiled(build("unet").train())
    with pytest.raises(ShapeError, match=r"^an image of shape \(3, H, W\) was expected, got \(1, 8, 8\)$"):
        tiled(build("unet")).labels(picture(1, 8, 8))
    with pytest.raises(
        UsageError,
        match=r"^a model of create_model was expected; Conv2d has no geometry, num_classes$",
    ):
        model_parts(torch.nn.Conv2d(1, 1, 1))


def test_many_classes_take_sixteen_bits(build):
    model = build("unet", num_classes=300)
    assert tiled(model).labels(picture(3, 8, 8)).dtype == np.uint16
    assert tiled(build("unet")).labels(picture(3, 8, 8)).dtype == np.uint8


def test_threads_get_the_same_labels(build):
    part = tiled(build("unet"), tile=64)
    image = picture(3, 150, 100)
    expected = tiled(build("unet"), tile=64).labels(image)
    results = []
    threads = [threading.Thread(target=lambda: results.append(part.labels(image))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((labels == expected).all() for labels in results)
    assert len(results) == 4


def test_canvas_sizes():
    geometry = Geometry(margin=92, total_stride=16, size_step=16, size_offset=12, min_size=188)
    assert [fit_size(side, geometry) for side in (1, 188, 189, 572, 573)] == [188, 188, 204, 572, 588]


# Several views


def views_of(model, **options):
    return Views(model, model.geometry, **options).eval()


def test_views_are_the_mean_over_resized_flipped_and_turned_images(build):
    model = build("unet")
    image = torch.from_numpy(picture(3, 64, 96))[None]
    views = views_of(model, scales=(0.5, 1.0, 1.25), flip=True, turns=True)
    assert views.count == 24
    assert views.multiple == 16
    expected = []
    with torch.inference_mode():
        for size in ((32, 48), (64, 96), (80, 120)):
            scaled = torch.nn.functional.interpolate(image, size=size, mode="bilinear", align_corners=False)
            for quarter in range(4):
                for axes in ((), (3,)):
                    seen = torch.rot90(scaled, quarter, (2, 3)).flip(axes)
                    logits = torch.rot90(model(seen).logits.flip(axes), -quarter, (2, 3))
                    back = torch.nn.functional.interpolate(logits, size=(64, 96), mode="bilinear", align_corners=False)
                    expected.append(back.softmax(1))
        result = views(image)
    assert torch.allclose(result, torch.stack(expected).mean(0), atol=1e-6)


@pytest.mark.parametrize("options", [{"scales": (0.5, 1.0)}, {"flip": True, "turns": True}])
def test_views_are_tiled_exactly(build, options):
    model = build("unet", depth=1)
    views = views_of(model, **options)
    image = picture(3, 150, 141)
    whole = tiled(model, views=views, mode="whole").probabilities(image)
    part = tiled(model, views=views, tile=96)
    strategy = part.strategy(150, 141)
    assert strategy.exact
    assert len(strategy.plan) > 1
    assert np.abs(part.probabilities(image) - whole).max() < 1e-5


def test_flipping_the_image_flips_the_result_of_flipped_views(build):
    model = build("unet")
    part = tiled(model, views=views_of(model, flip=True))
    image = picture(3, 32, 48)
    assert np.allclose(part.probabilities(image)[:, :, ::-1], part.probabilities(image[:, :, ::-1]), atol=1e-6)


def test_valid_net_takes_flips_but_no_scales(build):
    model = build("valid")
    part = tiled(model, views=views_of(model, flip=True))
    assert part.labels(picture(1, 30, 31)).shape == (30, 31)
    message = "a model whose result is smaller than its input cannot be tested at several scales; use 1"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        views_of(model, scales=(0.5, 1))


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ((), "give at least one scale; 1 is the image's own size"),
        ((0,), "a scale must be between 0.1 and 8, got 0"),
        ((1, -2.5), "a scale must be between 0.1 and 8, got -2.5"),
        ((9,), "a scale must be between 0.1 and 8, got 9"),
    ],
)
def test_wrong_scales_are_refused(build, scales, message):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        views_of(build("unet"), scales=scales)
