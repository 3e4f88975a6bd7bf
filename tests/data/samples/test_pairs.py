# SPDX-License-Identifier: Apache-2.0
"""A pair is a picture and its labels, of one size, without holes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from denseg.data.encoding import MaskEncoding
from denseg.data.folders.folder import Pair
from denseg.data.samples.pairs import read_pair, read_pair_image, read_pair_labels, read_pair_mask
from denseg.errors import DataError, ImageError

LABELS = (np.arange(12).reshape(3, 4) % 3).astype(np.uint8)
ENCODING = MaskEncoding.identity(3)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    Image.fromarray(LABELS * 80).save(tmp_path / "i.png")
    Image.fromarray(LABELS).save(tmp_path / "m.png")
    return Pair("a", tmp_path / "i.png", tmp_path / "m.png")


def test_a_pair(pair: Pair) -> None:
    image, labels = read_pair(pair, ENCODING)
    np.testing.assert_array_equal(image[:, :, 0], LABELS * 80)
    np.testing.assert_array_equal(labels, LABELS)
    np.testing.assert_array_equal(read_pair_labels(pair, ENCODING), LABELS)
    np.testing.assert_array_equal(read_pair_mask(pair).values, LABELS)
    assert read_pair_image(pair, bands=3).shape == (3, 4, 3)


def test_sizes_must_agree(pair: Pair) -> None:
    Image.fromarray(LABELS.T).save(pair.mask)
    with pytest.raises(DataError) as error:
        read_pair(pair, ENCODING)
    assert str(error.value) == (f"{pair.mask}: the mask is 3 x 4 pixels, its picture i.png is 4 x 3; make them equal")


def test_bands_must_agree(pair: Pair) -> None:
    Image.fromarray(np.dstack([LABELS, LABELS + 1, LABELS])).save(pair.image)
    with pytest.raises(ImageError) as error:
        read_pair(pair, ENCODING, bands=1)
    assert str(error.value) == f"{pair.image}: 3 bands, expected 1; convert it or remove it"


def test_holes_carry_no_label(pair: Pair) -> None:
    values = LABELS.astype(np.float32)
    values[0, 0], values[2, 3] = np.nan, np.inf
    path = pair.image.with_suffix(".tif")
    tifffile.imwrite(path, values)
    image, labels = read_pair(Pair("a", path, pair.mask), ENCODING)
    np.testing.assert_array_equal(image[:, :, 0], values)  # normalisation turns holes into the mean
    expected = LABELS.copy()
    expected[0, 0] = expected[2, 3] = 255
    np.testing.assert_array_equal(labels, expected)


def test_pages(pair: Pair) -> None:
    stack = np.stack([LABELS, LABELS + 10])
    tifffile.imwrite(pair.image.with_suffix(".tif"), stack, photometric="minisblack")
    tifffile.imwrite(pair.mask.with_suffix(".tif"), 2 - stack % 10, photometric="minisblack")
    page = Pair("a", pair.image.with_suffix(".tif"), pair.mask.with_suffix(".tif"), image_page=1, mask_page=1)
    image, labels = read_pair(page, ENCODING)
    np.testing.assert_array_equal(image[:, :, 0], LABELS + 10)
    np.testing.assert_array_equal(labels, 2 - LABELS)


def test_limit(pair: Pair) -> None:
    with pytest.raises(ImageError, match="more than the limit of 11"):
        read_pair(pair, ENCODING, max_pixels=11)


@pytest.mark.parametrize(("declared", "dtype"), [("0", np.uint8), ("-9999", np.int16), ("nan", np.float32)])
def test_pixels_declared_as_no_data_carry_no_label(pair: Pair, declared: str, dtype: type) -> None:
    values = LABELS.astype(dtype) + 1
    values[1, 2] = values[2, 0] = float(declared)
    path = pair.image.with_suffix(".tif")
    tifffile.imwrite(path, values, extratags=[(42113, "s", 0, declared, True)])
    _, labels = read_pair(Pair("a", path, pair.mask), ENCODING)
    expected = LABELS.copy()
    expected[1, 2] = expected[2, 0] = 255
    np.testing.assert_array_equal(labels, expected)
