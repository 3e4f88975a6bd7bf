# SPDX-License-Identifier: Apache-2.0
"""Tile plans: every pixel decided once, windows of one shape at multiples of the stride, context where it is needed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from denseg.errors import UsageError
from denseg.inference import runtime
from denseg.inference.runtime import Blend, blend_window, mirror, plan_tiles, read_padded, run_plan

sizes = st.integers(1, 300)


@st.composite
def plans(draw, margins=False):
    multiple = draw(st.sampled_from([1, 2, 7, 8, 16, 32]))
    margin = draw(st.integers(1, 100)) if margins else 0
    overlap = draw(st.integers(0, 130))
    trim = -(-max(0, -(-overlap // 2) - margin) // multiple) * multiple
    needed = 2 * (trim + margin) + multiple
    height, width = draw(sizes), draw(sizes)
    tile = tuple(needed + side // 6 + draw(st.integers(0, 100)) for side in (height, width))  # a few tiles each way
    plan = plan_tiles(height, width, tile=tile, overlap=overlap, multiple=multiple, margin=margin)
    return plan, tile, overlap


def check_partition(plan):
    owner = np.zeros(plan.image, np.int32)
    for tile in plan:
        assert tile.core_height > 0
        assert tile.core_width > 0
        owner[tile.core] += 1
    assert owner.min() == owner.max() == 1
    assert sum(tile.core_height * tile.core_width for tile in plan) == plan.image[0] * plan.image[1]


@settings(max_examples=100, deadline=None)
@given(plans())
def test_halo_plan_rules(case):
    plan, tile, overlap = case
    check_partition(plan)
    assert len(plan) == plan.rows * plan.columns
    multiple = plan.multiple
    assert plan.canvas == tuple(-(-side // multiple) * multiple for side in plan.image)
    assert plan.window == tuple(min(-(-t // multiple) * multiple, c) for t, c in zip(tile, plan.canvas, strict=True))
    for window in plan:
        for offset, size, canvas, core, core_size, image, crop in (
            (
                window.top,
                window.height,
                plan.canvas[0],
                window.core_top,
                window.core_height,
                plan.image[0],
                window.crop_top,
            ),
            (
                window.left,
                window.width,
                plan.canvas[1],
                window.core_left,
                window.core_width,
                plan.image[1],
                window.crop_left,
            ),
        ):
            assert offset % multiple == 0
            assert 0 <= offset <= offset + size <= canvas
            assert crop == core - offset
            needed = -(-overlap // 2)
            assert core - offset >= needed or offset == 0  # context on both sides, except at the canvas' own border
            end = core + core_size
            assert offset + size - end >= needed or offset + size == canvas
            assert end <= image


@settings(max_examples=100, deadline=None)
@given(plans(margins=True))
def test_overlap_tile_plan_rules(case):
    plan, tile, _ = case
    check_partition(plan)
    for window in plan:
        assert (window.height, window.width) == plan.window
        assert (window.top + plan.margin) % plan.multiple == 0
        assert (window.left + plan.margin) % plan.multiple == 0
        result = np.zeros((window.height - 2 * plan.margin, window.width - 2 * plan.margin))
        assert window.crop(result).shape == (window.core_height, window.core_width)
        assert window.crop_top == window.core_top - window.top - plan.margin
    for side, asked in zip(plan.window, tile, strict=True):
        assert side <= asked
        assert (asked - side) % plan.multiple == 0  # still a size that the model takes


def test_u_net_takes_384_of_its_388_pixels():
    plan = plan_tiles(1000, 388, tile=572, overlap=0, multiple=16, margin=92)
    assert plan.window == (572, 572)
    assert [tile.top for tile in plan] == [-92, 292, 676]
    assert [(tile.core_top, tile.core_height) for tile in plan] == [(0, 384), (384, 384), (768, 232)]


def test_small_image_gets_the_smallest_window_that_holds_it():
    assert plan_tiles(100, 20, tile=572, overlap=0, multiple=16, margin=92).window == (284, 204)
    assert plan_tiles(100, 20, tile=512, overlap=64, multiple=32).window == (128, 32)


def test_last_window_is_shifted_inwards_and_keeps_its_unseen_part():
    plan = plan_tiles(1, 200, tile=96, overlap=32, multiple=8)
    spans = [(tile.left, tile.core_left, tile.core_left + tile.core_width) for tile in plan]
    assert spans == [(0, 0, 80), (64, 80, 144), (104, 144, 200)]
    assert plan.window == (8, 96)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 0}, "height must be at least 1, got 0"),
        ({"width": -3}, "width must be at least 1, got -3"),
        ({"tile": 0}, "tile must be at least 1, got 0"),
        ({"tile": (64, 0)}, "tile must be at least 1, got 0"),
        ({"overlap": -1}, "overlap must be at least 0, got -1"),
        ({"multiple": 0}, "multiple must be at least 1, got 0"),
        ({"margin": -1}, "margin must be at least 0, got -1"),
        (
            {"tile": 64, "overlap": 64, "multiple": 16},
            "a tile of 64 is too small: 32 pixels are dropped on each side and 16 must remain; give at least 80",
        ),
    ],
)
def test_wrong_numbers_are_refused(arguments, message):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        plan_tiles(**{"height": 10, "width": 10, "tile": 64, "overlap": 0, **arguments})


def test_plan_says_itself():
    plan = plan_tiles(100, 200, tile=64, overlap=16, multiple=8)
    windows = "100 x 200 pixels in 8 windows of 64 x 64 (2 x 4)"
    assert str(plan) == f"{windows}, 8 pixels dropped at inner edges, 1.64 times the pixels computed"
    assert str(plan_tiles(10, 20, tile=64, overlap=16, multiple=8)) == "10 x 20 pixels in one window of 16 x 24"
    assert plan.whole is False
    assert plan[-1] == plan.tiles[7]


@settings(max_examples=30, deadline=None)
@given(st.integers(-300, 300), st.integers(0, 300), st.integers(1, 50))
def test_mirror_is_numpy_reflect(start, count, length):
    before, after = max(0, -start), max(0, start + count - length)
    padded = np.pad(np.arange(length), (before, after), mode="reflect" if length > 1 else "edge")
    assert mirror(start, start + count, length).tolist() == padded[start + before : start + before + count].tolist()


def reader(image):
    def read(top, left, height, width):
        assert top >= 0
        assert left >= 0
        part = image[:, top : top + height, left : left + width]
        assert part.shape[1:] == (height, width)  # never asked for pixels outside the image
        return part

    return read


@settings(max_examples=30, deadline=None)
@given(plans(margins=True), st.integers(0, 9))
def test_mirrored_windows_equal_the_mirrored_image(case, seed):
    plan, _, _ = case
    image = np.random.default_rng(seed).random((2, *plan.image))
    below, right = (max(t.top + t.height for t in plan), max(t.left + t.width for t in plan))
    rows, columns = (mirror(-plan.margin, end, side) for end, side in zip((below, right), plan.image, strict=True))
    whole = image[:, rows][:, :, columns]
    for tile in plan:
        window = read_padded(reader(image), tile, plan.image, mirrored=True)
        top, left = tile.top + plan.margin, tile.left + plan.margin
        assert (window == whole[:, top : top + tile.height, left : left + tile.width]).all()


@settings(max_examples=30, deadline=None)
@given(plans(), st.integers(1, 5), st.integers(0, 9))
def test_a_local_function_tiled_equals_the_whole(case, batch, seed):
    """A box sum of radius r, zero outside the canvas, is exact wherever the overlap is at least 2 r."""
    plan, _, overlap = case
    radius = overlap // 2
    assume(radius < 60)
    image = np.random.default_rng(seed).integers(0, 9, (1, *plan.image))

    def compute(windows):
        sums = windows.astype(np.int64)
        for axis in (2, 3):
            pad = [(0, 0)] * 4
            pad[axis] = (radius + 1, radius)
            sums = np.pad(sums, pad).cumsum(axis)
            size = sums.shape[axis] - 2 * radius - 1
            index = np.arange(size)
            sums = sums.take(index + 2 * radius + 1, axis) - sums.take(index, axis)
        return sums[:, 0]

    canvas = np.zeros((1, 1, *plan.canvas), np.int64)
    canvas[:, :, : plan.image[0], : plan.image[1]] = image
    whole = compute(canvas)[0, : plan.image[0], : plan.image[1]]
    tiled = np.zeros(plan.image, np.int64)
    for tile, values in run_plan(plan, reader(image), compute, batch=batch):
        tiled[tile.core] = tile.crop(values)
    assert (tiled == whole).all()


@settings(max_examples=30, deadline=None)
@given(plans(), st.sampled_from(["gaussian", "hann"]), st.integers(0, 9))
def test_blending_equal_windows_changes_nothing(case, shape, seed):
    plan, _, _ = case
    image = np.random.default_rng(seed).random((3, *plan.image), dtype=np.float32)
    blend = Blend(plan, 3, shape=shape)
    result = np.full((3, *plan.image), np.nan, np.float32)
    for tile, values in run_plan(plan, reader(image), lambda windows: windows):
        for top, left, rows in blend.add(tile, values):
            assert left == 0
            assert np.isnan(result[:, top : top + rows.shape[1]]).all()  # each row is given once
            result[:, top : top + rows.shape[1]] = rows
    assert np.allclose(result, image, atol=1e-6)
    assert blend.seams.differing == 0
    assert blend.seams.largest < 1e-6


def test_blending_is_the_weighted_mean_and_reports_the_seam():
    plan = plan_tiles(4, 14, tile=8, overlap=4, multiple=2)
    assert [tile.left for tile in plan] == [0, 4, 6]
    blend = Blend(plan, 2)
    weight = blend_window(plan.window[1])
    sums, mass = np.zeros((2, 14)), np.zeros(14)
    rows = []
    for index, tile in enumerate(plan):
        value = np.array([0.75, 0.25]) if index % 2 == 0 else np.array([0.25, 0.75])
        rows += list(blend.add(tile, np.broadcast_to(value[:, None, None], (2, *plan.window)).astype(np.float32)))
        sums[:, tile.left : tile.left + tile.width] += value[:, None] * weight
        mass[tile.left : tile.left + tile.width] += weight
    ((top, left, values),) = rows
    assert top == left == 0
    assert np.allclose(values, (sums / mass)[:, None, :], atol=1e-6)
    assert blend.seams.pixels > 0
    assert 0 < blend.seams.share <= 1
    assert 0 < blend.seams.mean <= blend.seams.largest <= 0.5 + 1e-6


def test_blend_memory_is_one_row_of_windows():
    plan = plan_tiles(5000, 300, tile=64, overlap=16, multiple=8)
    blend = Blend(plan, 2)
    assert blend._sum.shape == (2, 64, 304)


def test_window_shapes():
    for shape in ("gaussian", "hann"):
        weights = blend_window(65, shape=shape)
        assert weights.dtype == np.float32
        assert weights[32] == weights.max() == 1
        assert weights.min() >= np.float32(1e-3)
        assert (weights == weights[::-1]).all()
        assert (np.diff(weights[:33]) >= 0).all()
    with pytest.raises(UsageError, match=r"^a blend window is 'gaussian' or 'hann', got 'box'$"):
        blend_window(8, shape="box")


def test_report_of_nothing_is_zero():
    assert runtime.SeamReport().share == runtime.SeamReport().mean == 0


def test_the_file_runs_alone(tmp_path):
    """Copied beside an export it needs numpy only."""
    copy = tmp_path / "denseg_runtime.py"
    copy.write_bytes(Path(runtime.__file__).read_bytes())
    code = (
        "import sys; sys.modules['denseg'] = None; import denseg_runtime as r; "
        "print(len(r.plan_tiles(100, 100, tile=64, overlap=16)), 'torch' in sys.modules)\n"
        "try: r.plan_tiles(0, 1, tile=1, overlap=0)\nexcept ValueError as e: print(e)"
    )
    arguments = [sys.executable, "-c", code]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["4 False", "height must be at least 1, got 0"]
