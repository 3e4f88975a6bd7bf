# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from denseg.data.doctor.doctor import examine
from denseg.data.generated.synthetic import DEMO_CLASSES, DEMO_IMAGES, Picture, draw_picture, write_demo_dataset
from denseg.errors import OutputError, UsageError
from denseg.metrics import ConfusionMatrix

CYTOPLASM, MEMBRANE, MITOCHONDRION = range(3)


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return [draw_picture(np.random.default_rng((0, number)), size=192) for number in range(12)]


def test_a_seed_gives_the_same_picture_and_another_seed_another() -> None:
    first, again, other = (draw_picture(np.random.default_rng(seed), size=96) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.labels != other.labels).mean() > 0.05


def test_every_picture_holds_every_class(pictures: list[Picture]) -> None:
    assert len(DEMO_CLASSES) == 3
    for picture in pictures:
        assert picture.image.shape == picture.labels.shape == (192, 192)
        assert picture.image.dtype == picture.labels.dtype == np.uint8
        shares = np.bincount(picture.labels.ravel(), minlength=3) / picture.labels.size
        assert 0.55 < shares[CYTOPLASM] < 0.9
        assert 0.05 < shares[MEMBRANE] < 0.25
        assert 0.02 < shares[MITOCHONDRION] < 0.25
        assert ((picture.image == 0) | (picture.image == 255)).mean() < 0.01  # neither black nor burnt out


def test_membranes_are_thin_and_separate_the_cells(pictures: list[Picture]) -> None:
    for picture in pictures:
        wall = picture.labels == MEMBRANE
        widest = 2 * ndimage.distance_transform_edt(wall)[8:-8, 8:-8].max()
        assert widest < 14  # junctions of several cells are the widest places
        thickness = wall.sum() / (ndimage.binary_erosion(wall, border_value=1) ^ wall).sum()
        assert thickness < 2.0  # at least half of a membrane's pixels touch its border
        cells, count = ndimage.label(~wall)
        sizes = np.bincount(cells.ravel())[1:]
        assert count > 12
        assert sizes.max() < 0.35 * wall.size


def test_mitochondria_lie_inside_cells(pictures: list[Picture]) -> None:
    for picture in pictures:
        bodies, count = ndimage.label(picture.labels == MITOCHONDRION)
        assert count > 4
        near = ndimage.binary_dilation(picture.labels == MITOCHONDRION) & (picture.labels == MEMBRANE)
        assert near.sum() < 0.05 * (picture.labels == MEMBRANE).sum()
        assert np.median(np.bincount(bodies.ravel())[1:]) > 60


def best_lookup(pictures: list[Picture], features: list[NDArray[np.int64]], bins: int) -> float:
    """mIoU on the second half of the best of many classifiers that see one number per pixel, learned on the first."""
    half = len(pictures) // 2
    counts = np.zeros((bins, 3))
    for picture, feature in zip(pictures[:half], features[:half], strict=True):
        np.add.at(counts, (feature.ravel(), picture.labels.ravel()), 1)
    best = 0.0
    for weights in product(1.5 ** np.arange(6), repeat=2):  # rare classes count more: no other trade-off does better
        table = (counts * [1.0, *weights]).argmax(axis=1)
        matrix = ConfusionMatrix(3, 255)
        for picture, feature in zip(pictures[half:], features[half:], strict=True):
            matrix.update(table[feature], picture.labels.astype(np.int64))
        best = max(best, matrix.compute().miou)
    return best


def test_grey_values_do_not_tell_the_class(pictures: list[Picture]) -> None:
    raw = [picture.image.astype(np.int64) for picture in pictures]
    smooth = [ndimage.gaussian_filter(picture.image.astype(float), 1.0).astype(np.int64) for picture in pictures]
    assert best_lookup(pictures, raw, 256) < 0.55
    assert best_lookup(pictures, smooth, 256) < 0.55
    local = [
        (ndimage.gaussian_filter(one.image / 8.0, 1.0)).astype(np.int64) * 32
        + (ndimage.gaussian_filter(one.image / 8.0, 6.0)).astype(np.int64)
        for one in pictures
    ]
    assert best_lookup(pictures, local, 1024) < 0.65  # not even beside the surroundings' mean


def test_the_folder_is_an_ordinary_one(tmp_path: Path) -> None:
    counts = {"train": 3, "val": 1, "test": 1}
    folder = write_demo_dataset(tmp_path / "new" / "demo", images=counts, size=128)
    for split, count in counts.items():
        images, masks = (sorted((folder / kind / split).iterdir()) for kind in ("images", "masks"))
        assert [path.name for path in images] == [path.name for path in masks]
        assert len(images) == count
    last = draw_picture(np.random.default_rng((0, 4)), size=128)
    with Image.open(images[0]) as image, Image.open(masks[0]) as mask:
        assert (image.mode, mask.mode) == ("L", "P")
        assert mask.getpalette()[:9] == [value for color in DEMO_CLASSES.colors for value in color]
        np.testing.assert_array_equal(np.asarray(image), last.image)
        np.testing.assert_array_equal(np.asarray(mask), last.labels)
    document = yaml.safe_load((folder / "dataset.yaml").read_text())
    assert [one["name"] for one in document["classes"]] == list(DEMO_CLASSES.names)
    examination = examine(folder)
    assert examination.ok
    assert not [finding for finding in examination.findings if finding.severity != "info"]
    assert examination.classes.names == DEMO_CLASSES.names
    assert examination.classes.colors == DEMO_CLASSES.colors
    before = {path: path.read_bytes() for path in folder.rglob("*.png")}
    write_demo_dataset(folder, images=counts, size=128)
    assert {path: path.read_bytes() for path in folder.rglob("*.png")} == before


@pytest.mark.slow
def test_the_whole_demo_set_takes_seconds(tmp_path: Path) -> None:
    start = time.process_time()
    write_demo_dataset(tmp_path)
    assert time.process_time() - start < 30  # 7 s on a quiet core
    assert len(list(tmp_path.rglob("*.png"))) == 2 * sum(DEMO_IMAGES.values())


def test_faults_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^a demo picture needs at least 64 pixels a side, got 63$"):
        draw_picture(np.random.default_rng(0), size=63)
    (tmp_path / "images").write_text("in the way")
    with pytest.raises(OutputError, match=r"^cannot write .*images/train: "):
        write_demo_dataset(tmp_path, images={"train": 1}, size=64)


@pytest.mark.parametrize("size", [64, 65, 130])
def test_any_size_from_64_works(size: int) -> None:
    for seed in range(4):
        picture = draw_picture(np.random.default_rng(seed), size=size)
        assert picture.image.shape == picture.labels.shape == (size, size)
        assert (picture.labels == MEMBRANE).any()
