# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile

from denseg.data.doctor.clean import write_clean_copy
from denseg.data.doctor.doctor import examine
from denseg.data.reading.images import read_image
from denseg.data.reading.parts import pages_around, pair_size, read_stack
from denseg.data.samples.normalization import Normalization
from denseg.data.samples.pairs import read_pair
from denseg.errors import ImageError


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """A data folder of one stack of nine slices, read with a neighbour on either side."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    tifffile.imwrite(tmp_path / "images/s.tif", rng.integers(0, 256, (9, 20, 24), np.uint8), photometric="minisblack")
    tifffile.imwrite(tmp_path / "masks/s.tif", rng.integers(0, 2, (9, 20, 24), np.uint8), photometric="minisblack")
    (tmp_path / "dataset.yaml").write_text("neighbours: 1\n")
    return tmp_path


def test_pages_around_repeat_the_ends() -> None:
    assert pages_around(0, 9, 1) == (0, 0, 1)
    assert pages_around(4, 9, 2) == (2, 3, 4, 5, 6)
    assert pages_around(8, 9, 2) == (6, 7, 8, 8, 8)
    assert pages_around(0, 1, 1) == (0, 0, 0)


def test_slices_come_with_their_neighbours(stack: Path) -> None:
    examination = examine(stack)
    assert (examination.ok, examination.bands, len(examination.pairs)) == (True, 3, 9)
    volume, labels = tifffile.imread(stack / "images/s.tif"), tifffile.imread(stack / "masks/s.tif")
    for page, pair in enumerate(examination.pairs):
        image, truth = read_pair(pair, examination.encoding, bands=3)
        around = [max(page - 1, 0), page, min(page + 1, 8)]
        np.testing.assert_array_equal(image, volume[around].transpose(1, 2, 0))
        np.testing.assert_array_equal(truth, labels[page])
        np.testing.assert_array_equal(read_stack(stack / "images/s.tif", page, 1), image)
        assert pair_size(pair) == (20, 24)
    np.testing.assert_array_equal(read_stack(stack / "images/s.tif", 4, 0), read_image(stack / "images/s.tif", page=4))


def test_a_clean_copy_holds_all_bands(stack: Path, tmp_path: Path) -> None:
    copy = write_clean_copy(examine(stack), tmp_path.parent / f"{tmp_path.name}-copy")
    assert copy.rewritten == 9
    assert examine(copy.folder).bands == 3


def test_the_normalization_remembers_the_neighbours() -> None:
    normalization = Normalization((0.5,) * 3, (0.2,) * 3, neighbours=1)
    assert Normalization.from_json(normalization.to_json()) == normalization
    assert "neighbours" not in Normalization.imagenet().to_json()


def test_slices_of_different_size_are_told(tmp_path: Path) -> None:
    path = tmp_path / "odd.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(np.zeros((8, 8), np.uint8), photometric="minisblack")
        writer.write(np.zeros((8, 9), np.uint8), photometric="minisblack")
    message = f"{path}: its slices differ in size or have palettes; save them alike"
    from denseg.data.reading.parts import _stacked

    with pytest.raises(ImageError, match=f"^{re.escape(message)}$"):
        _stacked(path, (0, 1), 1000)
