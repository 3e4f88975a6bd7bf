# SPDX-License-Identifier: Apache-2.0
"""Masks keep the values that are stored: no palette becomes grey, no id is cut, nothing is rounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from denseg.data.encoding import MaskEncoding
from denseg.data.reading.masks import read_mask
from denseg.errors import ImageError

IDS = (np.arange(30).reshape(6, 5) % 7).astype(np.uint8)
COLORS = np.asarray(
    [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (9, 9, 9), (255, 255, 255)], np.uint8
)


def palette_mask(**info: object) -> Image.Image:
    image = Image.frombytes("P", (5, 6), IDS.tobytes())
    image.putpalette(COLORS.ravel().tolist())
    return image


def test_palette_keeps_indices(tmp_path: Path) -> None:
    for name in ("a.png", "a.gif", "a.tif", "a.bmp"):
        palette_mask().save(tmp_path / name)
        mask = read_mask(tmp_path / name)
        assert mask.kind == "palette"
        np.testing.assert_array_equal(mask.values, IDS)
        assert mask.palette is not None
        np.testing.assert_array_equal(mask.palette[:7], COLORS)


def test_palette_with_transparency_keeps_indices(tmp_path: Path) -> None:
    palette_mask().save(tmp_path / "a.png", transparency=0)
    mask = read_mask(tmp_path / "a.png")
    np.testing.assert_array_equal(mask.values, IDS)
    assert mask.transparent == pytest.approx((IDS == 0).mean())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.uint32, np.float32, np.float64])
def test_numbers_of_every_depth(tmp_path: Path, dtype: type) -> None:
    values = (IDS.astype(np.int64) * 9).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values)
    mask = read_mask(tmp_path / "a.tif")
    assert mask.kind == "index"
    assert mask.values.dtype.kind in "ui"
    np.testing.assert_array_equal(mask.values, values)


def test_16_bit_png(tmp_path: Path) -> None:
    Image.fromarray(IDS.astype(np.uint16) * 1000).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png").values, IDS.astype(int) * 1000)


def test_one_bit_is_0_and_1(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif", "a.bmp"):
        Image.fromarray(IDS > 3).save(tmp_path / name)
        mask = read_mask(tmp_path / name)
        np.testing.assert_array_equal(mask.values, (IDS > 3).astype(int))


def test_numbers_that_are_not_whole(tmp_path: Path) -> None:
    for values in (IDS / 2, IDS * 1e12):
        tifffile.imwrite(tmp_path / "a.tif", values.astype(np.float32))
        assert read_mask(tmp_path / "a.tif").kind == "float"


def test_colours_and_grey_in_colour(tmp_path: Path) -> None:
    Image.fromarray(COLORS[IDS]).save(tmp_path / "a.png")
    mask = read_mask(tmp_path / "a.png")
    assert mask.kind == "color"
    np.testing.assert_array_equal(mask.values, COLORS[IDS])
    Image.fromarray(np.dstack([IDS] * 3)).save(tmp_path / "a.png")
    mask = read_mask(tmp_path / "a.png")
    assert mask.kind == "index"
    np.testing.assert_array_equal(mask.values, IDS)


def test_transparent_pixels_are_black(tmp_path: Path) -> None:
    alpha = np.where(IDS > 0, 255, 0).astype(np.uint8)
    Image.fromarray(np.dstack([COLORS[IDS] | 1, alpha])).save(tmp_path / "a.png")
    mask = read_mask(tmp_path / "a.png")
    np.testing.assert_array_equal(mask.values, np.where(IDS[..., None] > 0, COLORS[IDS] | 1, 0))
    Image.merge("LA", [Image.fromarray(IDS + 1), Image.fromarray(alpha)]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png").values, np.where(IDS > 0, IDS + 1, 0))


def test_exif_turns_masks_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(IDS).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png").values, np.rot90(IDS, -1))


def test_pages(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.stack([IDS, IDS + 1]), photometric="minisblack")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif", page=1).values, IDS + 1)


def test_bands_are_no_mask(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    values = np.random.default_rng(0).integers(0, 9, (6, 5, 5)).astype(np.uint8)
    tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig")
    with pytest.raises(ImageError) as error:
        read_mask(path)
    assert str(error.value) == (
        f"{path}: a mask has one band of ids or three 8-bit bands of colour; this one has 5 bands of uint8; save it as"
        " an index PNG"
    )


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as error:
        read_mask(tmp_path / "a.png")
    assert str(error.value) == f"{tmp_path}/a.png: cannot be read as a picture: there is no such file"


def test_nan_among_whole_numbers_carries_no_label(tmp_path: Path) -> None:
    values = np.array([[0, 1, np.nan], [2, np.inf, 1]], np.float32)
    tifffile.imwrite(tmp_path / "m.tif", values)
    raw = read_mask(tmp_path / "m.tif")
    assert raw.kind == "index"
    np.testing.assert_array_equal(raw.hole, ~np.isfinite(values))
    labels = MaskEncoding.identity(3).decode(raw)
    np.testing.assert_array_equal(labels, [[0, 1, 255], [2, 255, 1]])
    shifted = MaskEncoding("index", 2, values=((1, 0), (2, 1)), other=None)
    tifffile.imwrite(tmp_path / "n.tif", np.array([[1, 2, np.nan]], np.float32))
    np.testing.assert_array_equal(shifted.decode(read_mask(tmp_path / "n.tif")), [[0, 1, 255]])
    tifffile.imwrite(tmp_path / "f.tif", np.array([[0.5, np.nan]], np.float32))
    assert read_mask(tmp_path / "f.tif").kind == "float"
    tifffile.imwrite(tmp_path / "e.tif", np.full((2, 2), np.nan, np.float32))
    np.testing.assert_array_equal(MaskEncoding.identity(3).decode(read_mask(tmp_path / "e.tif")), np.full((2, 2), 255))
