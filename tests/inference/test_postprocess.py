# SPDX-License-Identifier: Apache-2.0
"""What is done to whole results, and what is measured of them."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
import tifffile

from denseg.data.reading.windows import TiffWindows
from denseg.errors import UnknownNameError, UsageError
from denseg.inference.crf import CRF_PRESETS, dense_crf
from denseg.inference.guard import InputGuard
from denseg.inference.pixel_size import read_pixel_size
from denseg.inference.postprocess import PostProcessing, clean_labels, split_instances, threshold_labels
from denseg.inference.regions import PixelSize, find_regions, write_regions

NAMES = ("ground", "crack", "leaf")


def disk(shape, row, column, radius):
    rows, columns = np.indices(shape)
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def test_holes_and_specks():
    labels = np.zeros((40, 40), np.uint8)
    labels[5:30, 5:30] = 1
    labels[10:12, 10:12] = 0  # a hole of 4
    labels[20:25, 20:25] = 2  # a hole of 25, of another class
    labels[35, 35] = labels[36, 36] = 2  # touch at a corner: one speck of 2
    before = labels.copy()
    filled = clean_labels(labels, fill_holes=10)
    assert (filled[10:12, 10:12] == 1).all()
    assert (filled[20:25, 20:25] == 2).all()
    assert (filled != labels).sum() == 4 + 2  # the specks are holes of the ground
    assert (clean_labels(labels, fill_holes=25)[20:25, 20:25] == 1).all()
    clean = clean_labels(labels, min_area=3)
    assert (clean != labels).sum() == 2
    assert (clean[35:37, 35:37] == 0).all()
    assert (clean_labels(labels, min_area=2) == labels).all()
    np.testing.assert_array_equal(labels, before)
    assert (clean_labels(labels[:3, :3], min_area=10_000) == labels[:3, :3]).all()  # nothing would be left


def test_removed_regions_become_what_is_nearest():
    labels = np.repeat(np.array([[0] * 10 + [2] * 10], np.uint8), 20, axis=0)
    labels[5, 8] = labels[5, 12] = 1
    clean = clean_labels(labels, min_area=5)
    assert (clean[5, 8], clean[5, 12]) == (0, 2)


def test_thresholds_by_their_rule():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1, 1], 500).T.reshape(3, 20, 25).astype(np.float32)
    np.testing.assert_array_equal(threshold_labels(p, {}, NAMES), p.argmax(0))
    labels = threshold_labels(p, {"crack": 0.2, "leaf": 0.6}, NAMES)
    for probabilities, label in zip(p.reshape(3, -1).T, labels.ravel(), strict=True):
        passed = [k for k, t in ((1, 0.2), (2, 0.6)) if probabilities[k] >= np.float32(t)]
        expected = max(passed, key=lambda k: probabilities[k] / {1: 0.2, 2: 0.6}[k]) if passed else 0
        assert label == expected
    two = threshold_labels(p[:2] / p[:2].sum(0), {"crack": 0.3}, NAMES[:2])
    np.testing.assert_array_equal(two, (p[1] / p[:2].sum(0)) >= np.float32(0.3))


def test_steps_are_stored_and_done_in_order():
    steps = PostProcessing(CRF_PRESETS["deeplab_v2"], {"crack": 0.4}, fill_holes=4, min_area=9)
    assert PostProcessing.from_json(json.loads(json.dumps(steps.to_json()))) == steps
    assert PostProcessing.from_json(None) == PostProcessing()
    assert not PostProcessing()
    assert str(steps) == (
        "dense CRF (67/3 w 4, 1 w 3, 10 iterations), crack from 0.4, holes up to 4 pixels filled, "
        "regions below 9 pixels removed"
    )
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1, 1], 600).T.reshape(3, 20, 30).astype(np.float32)
    image = rng.integers(0, 65536, (20, 30, 4), dtype=np.uint16)
    expected = dense_crf(p, image[:, :, :3].astype(np.float32) * np.float32(255 / 65535), "deeplab_v2")
    expected = clean_labels(threshold_labels(expected, {"crack": 0.4}, NAMES), fill_holes=4, min_area=9)
    np.testing.assert_array_equal(steps.apply(p, image, NAMES, scale=65535.0), expected)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: PostProcessing(thresholds={"crack": 1.5}),
            UsageError,
            "the threshold of class 'crack' must be between 0 and 1, got 1.5",
        ),
        (lambda: PostProcessing(min_area=-1), UsageError, "min_area must be at least 0 pixels, got -1"),
        (
            lambda: threshold_labels(np.zeros((3, 2, 2)), {"crak": 0.5}, NAMES),
            UnknownNameError,
            "no class named 'crak'. Did you mean 'crack'? Known: crack, ground, leaf",
        ),
        (
            lambda: threshold_labels(np.zeros((2, 2, 2)), {"ground": 0.5, "crack": 0.5}, NAMES[:2]),
            UsageError,
            "every class has a threshold: leave one out, for pixels that pass none",
        ),
    ],
)
def test_mistakes_are_said(call, kind, message):
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        call()


def test_touching_disks_are_told_apart():
    mask = disk((60, 100), 30, 30, 15) | disk((60, 100), 30, 55, 15) | disk((60, 100), 20, 85, 6)
    instances = split_instances(mask, distance=5)
    assert instances.max() == 3
    assert ((instances > 0) == mask).all()
    assert len({instances[30, 30], instances[30, 55], instances[20, 85]}) == 3
    assert split_instances(np.zeros((5, 5), bool)).max() == 0
    assert split_instances(np.ones((5, 5), bool)).max() == 1


def test_regions_are_measured(tmp_path):
    labels = np.zeros((80, 120), np.uint8)
    labels[disk(labels.shape, 40, 30, 20)] = 1
    labels[10:20, 80:110] = 2
    labels[60:70, 80:90] = 2
    round_one, wide, square = find_regions(labels)
    assert (round_one.label, wide.label, square.label) == (1, 2, 2)
    assert round_one.area == (labels == 1).sum()
    assert round_one.perimeter == pytest.approx(2 * np.pi * 20, rel=0.03)
    assert (round_one.row, round_one.column) == pytest.approx((40, 30))
    assert (wide.area, wide.box) == (300, (10, 80, 20, 110))
    assert len(find_regions(labels, background=None)) == 4
    size = PixelSize(0.5, 0.5, "m", 1000.0, 2000.0)
    write_regions(tmp_path / "r.csv", [("a", [round_one, wide], size), ("b", [square], None)], NAMES)
    rows = list(csv.DictReader((tmp_path / "r.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["class"] for row in rows] == ["crack", "leaf", "leaf"]
    assert (rows[1]["area_pixels"], rows[1]["area"], rows[1]["unit"]) == ("300", "75.0", "m")
    assert float(rows[1]["perimeter"]) == pytest.approx(wide.perimeter / 2, rel=1e-4)
    assert (rows[2]["area"], rows[2]["unit"], rows[2]["image"]) == ("", "", "b")
    write_regions(tmp_path / "r.geojson", [("a", [wide], size), ("b", [square], None)], NAMES)
    features = json.loads((tmp_path / "r.geojson").read_text())["features"]
    assert features[0]["geometry"]["coordinates"][0] == [
        [1040, 1995], [1055, 1995], [1055, 1990], [1040, 1990], [1040, 1995],
    ]  # fmt: skip
    assert features[1]["geometry"]["coordinates"][0][0] == [80, 60]
    with pytest.raises(UsageError, match=r"^--regions writes \.csv or \.geojson, got r\.txt$"):
        write_regions(tmp_path / "r.txt", [], NAMES)


def test_instances_are_regions_of_their_own():
    mask = disk((60, 100), 30, 30, 15) | disk((60, 100), 30, 55, 15)
    labels = mask.astype(np.uint8)
    assert len(find_regions(labels)) == 1
    apart = find_regions(labels, instances=split_instances(mask))
    assert len(apart) == 2
    assert sum(region.area for region in apart) == mask.sum()


def geo_tags(scale, x, y, keys):
    return [
        (33550, "d", 3, (*scale, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, x, y, 0.0), True),
        (34735, "H", len(keys), keys, True),
    ]


def test_pixel_sizes(tmp_path):
    image = np.zeros((20, 30), np.uint8)
    keys = (1, 1, 0, 2, 1024, 0, 1, 1, 3076, 0, 1, 9001)
    tifffile.imwrite(tmp_path / "geo.tif", image, extratags=geo_tags((0.25, 0.5), 100.0, 900.0, keys))
    assert read_pixel_size(tmp_path / "geo.tif") == PixelSize(0.25, 0.5, "m", 100.0, 900.0)
    assert TiffWindows(tmp_path / "geo.tif").geo_tags
    keys = (1, 1, 0, 1, 1024, 0, 1, 2)
    tifffile.imwrite(tmp_path / "degrees.tif", image, extratags=geo_tags((0.1, 0.1), 5.0, 50.0, keys))
    assert read_pixel_size(tmp_path / "degrees.tif") == PixelSize(0.1, 0.1, "degree", 5.0, 50.0)
    tifffile.imwrite(tmp_path / "a.ome.tif", image, metadata={"axes": "YX", "PhysicalSizeX": 0.4, "PhysicalSizeY": 0.3})
    assert read_pixel_size(tmp_path / "a.ome.tif") == PixelSize(0.4, 0.3, "um")
    tifffile.imwrite(tmp_path / "ij.tif", image, imagej=True, resolution=(4.0, 2.0), metadata={"unit": "um"})
    assert read_pixel_size(tmp_path / "ij.tif") == PixelSize(0.25, 0.5, "um")
    tifffile.imwrite(tmp_path / "plain.tif", image)
    assert read_pixel_size(tmp_path / "plain.tif") is None
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert read_pixel_size(tmp_path / "a.png") is None
    (tmp_path / "bad.tif").write_bytes(b"II*\0\0\0\0\0")
    assert read_pixel_size(tmp_path / "bad.tif") is None


TRAINING = {
    "images": {
        "height": {"min": 360, "median": 360, "max": 480}, "width": {"min": 480, "median": 480, "max": 640},
        "bands": {"3": 9}, "dtype": {"uint8": 9},
    },
    "intensity": [{"low": 0, "high": 255, "mean": 100.0, "std": 40.0} for _ in range(3)],
}  # fmt: skip


def test_the_guard_tells_each_difference_once():
    rng = np.random.default_rng(0)
    guard = InputGuard(TRAINING)
    usual = rng.normal(100, 40, (400, 500, 3)).clip(0, 255).astype(np.uint8)
    guard.look("usual.png", usual)
    assert guard.lines() == []
    guard.look("large.png", np.tile(usual, (4, 1, 1)))
    guard.look("large2.png", np.tile(usual, (4, 1, 1)))
    guard.look("bright.png", np.full((400, 500, 3), 250, np.uint8))
    guard.look("deep.tif", usual[:, :, :1].astype(np.uint16))
    guard.look("empty.tif", np.full((400, 500, 3), np.nan, np.float32))
    assert guard.lines() == [
        "size unlike training in 2 of 6 pictures, first large.png with 1600 x 500 pixels; training had 360 to 480 x "
        "480 to 640",
        "intensity unlike training in 2 of 6 pictures, first bright.png with band 0 at 250 ± 0; training had 100 ± 40",
        "depth unlike training in 2 of 6 pictures, first deep.tif with pixels of type uint16; training had uint8",
        "bands unlike training in 1 of 6 pictures, first deep.tif with bands: 1; training had 3",
    ]


def test_the_guard_knows_nothing_of_old_checkpoints():
    guard = InputGuard(None)
    guard.look("a.png", np.zeros((3, 3), np.uint8))
    assert guard.lines() == []
