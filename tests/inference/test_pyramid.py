# SPDX-License-Identifier: Apache-2.0
"""Pyramids hold the picture exactly, its halves, and nothing when they fail."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from denseg.errors import OutputError
from denseg.inference.pyramid import TILE, write_pyramid

RNG = np.random.default_rng(0)


def bands(image):
    for top in range(0, image.shape[0], TILE):
        yield image[top : top + TILE]


def write(path, image, tmp_path, *, reduce="nearest", **options):
    options = {"compression": "zlib", "photometric": "minisblack", **options}
    write_pyramid(
        path, bands(image), shape=image.shape, dtype=image.dtype, reduce=reduce, options=options, scratch=tmp_path / "s"
    )


@pytest.mark.parametrize("size", [(1, 1), (512, 512), (513, 40), (700, 1500), (1025, 1023)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_level_is_right(tmp_path, size, dtype):
    image = RNG.integers(0, 200, size).astype(dtype)
    write(tmp_path / "out" / "a.tif", image, tmp_path)
    with tifffile.TiffFile(tmp_path / "out" / "a.tif") as file:
        levels = file.series[0].levels
        assert (levels[0].asarray() == image).all()
        for index, level in enumerate(levels):
            assert (level.asarray() == image[:: 2**index, :: 2**index]).all()
        assert max(levels[-1].shape) <= 512
        assert len(levels) == 1 + max(0, int(np.ceil(np.log2(max(size) / 512))))
        assert file.pages[0].is_tiled
    assert not list((tmp_path / "s").iterdir())


def test_pictures_are_averaged(tmp_path):
    image = RNG.integers(0, 256, (601, 523, 3), dtype=np.uint8)
    write(tmp_path / "a.tif", image, tmp_path, reduce="mean", photometric="rgb")
    even = np.pad(image, ((0, 1), (0, 1), (0, 0)), mode="edge").astype(int)
    mean = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2] + 2) >> 2
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert (file.series[0].levels[0].asarray() == image).all()
        assert (file.series[0].levels[1].asarray() == mean).all()


def test_the_same_bytes_every_time(tmp_path):
    image = RNG.integers(0, 9, (900, 700), dtype=np.uint8)
    for name in ("a.tif", "b.tif"):
        write(tmp_path / name, image, tmp_path)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_nothing_stands_under_the_name_before_the_end(tmp_path):
    image = RNG.integers(0, 9, (1600, 600), dtype=np.uint8)
    (tmp_path / "a.tif").write_text("old")

    def broken():
        yield image[:512]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pyramid(
            tmp_path / "a.tif", broken(), shape=image.shape, dtype=np.uint8, reduce="nearest",
            options={"compression": "zlib", "photometric": "minisblack"}, scratch=tmp_path / "s",
        )  # fmt: skip
    assert (tmp_path / "a.tif").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "s"]


def test_a_full_disk_is_one_error(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile.TiffWriter, "write", full)
    with pytest.raises(OutputError, match=r"a\.tif: no space left on the disk; free some or choose another folder"):
        write(tmp_path / "a.tif", np.zeros((4, 4), np.uint8), tmp_path)
    assert not (tmp_path / "a.tif").exists()
