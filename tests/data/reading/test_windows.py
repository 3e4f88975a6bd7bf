# SPDX-License-Identifier: Apache-2.0
"""Windows of a TIFF equal the same part of the whole picture, whatever the file's form; memory stays bounded."""

from __future__ import annotations

import re
import threading

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from denseg.data.reading.images import read_image
from denseg.data.reading.windows import TiffWindows, is_tiff
from denseg.errors import ImageError

RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 256, (150, 210, 3), dtype=np.uint8)
GREY = COLOR[:, :, 0].copy()
DEEP = RNG.integers(0, 65536, (150, 210), dtype=np.uint16)
REAL = RNG.normal(size=(150, 210)).astype(np.float32)
MANY = RNG.integers(0, 256, (7, 150, 210), dtype=np.uint8)

FORMS = {
    "plain": (COLOR, {"photometric": "rgb"}),
    "plain big-endian 16 bit": (DEEP, {"byteorder": ">"}),
    "plain float": (REAL, {}),
    "strips": (COLOR, {"photometric": "rgb", "rowsperstrip": 32, "compression": "zlib"}),
    "one strip": (COLOR, {"photometric": "rgb", "rowsperstrip": 150, "compression": "lzw", "predictor": True}),
    "tiles": (COLOR, {"photometric": "rgb", "tile": (64, 48), "compression": "zlib"}),
    "plain tiles": (COLOR, {"photometric": "rgb", "tile": (64, 48)}),
    "BigTIFF": (COLOR, {"photometric": "rgb", "tile": (32, 32), "bigtiff": True}),
    "planar tiles": (COLOR.transpose(2, 0, 1), {"photometric": "rgb", "tile": (64, 48), "planarconfig": "separate"}),
    "planar strips": (COLOR.transpose(2, 0, 1), {"photometric": "rgb", "rowsperstrip": 40, "planarconfig": "separate"}),
    "many bands": (MANY, {"photometric": "minisblack", "planarconfig": "separate", "tile": (64, 64)}),
    "JPEG": (COLOR, {"photometric": "rgb", "tile": (64, 64), "compression": "jpeg"}),
    "JPEG grey": (GREY, {"tile": (64, 64), "compression": "jpeg"}),
    "float tiles": (REAL, {"tile": (64, 64), "compression": "zlib", "predictor": 3}),
    "white is zero": (GREY, {"photometric": "miniswhite", "tile": (64, 64)}),
    "bits": (GREY > 127, {"photometric": "minisblack"}),
    "alpha": (np.dstack([COLOR, GREY]), {"photometric": "rgb", "extrasamples": ["unassalpha"], "tile": (64, 64)}),
    "palette": (
        GREY,
        {"photometric": "palette", "colormap": RNG.integers(0, 65536, (3, 256), dtype=np.uint16), "tile": (64, 64)},
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("windows")
    for name, (values, options) in FORMS.items():
        options = dict(options)
        order = options.pop("byteorder", None)
        with tifffile.TiffWriter(root / f"{name}.tif", byteorder=order, bigtiff=options.pop("bigtiff", False)) as file:
            file.write(values, **options)
    return root


@pytest.mark.parametrize("name", FORMS)
def test_windows_are_parts_of_the_picture(folder, name):
    path = folder / f"{name}.tif"
    whole = read_image(path)
    with TiffWindows(path) as windows:
        assert (windows.height, windows.width, windows.bands) == whole.shape
        assert windows.dtype == whole.dtype.name
        for top, left, height, width in (
            (0, 0, 150, 210),
            (0, 0, 1, 1),
            (149, 209, 1, 1),
            (31, 47, 70, 100),
            (64, 48, 64, 48),
        ):
            part = windows.read(top, left, height, width)
            assert part.dtype == whole.dtype
            assert np.array_equal(part, whole[top : top + height, left : left + width], equal_nan=True)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(FORMS)), st.integers(0, 149), st.integers(0, 209), st.integers(1, 150), st.integers(1, 210)
)
def test_any_window(folder, name, top, left, height, width):
    height, width = min(height, 150 - top), min(width, 210 - left)
    whole = read_image(folder / f"{name}.tif")
    with TiffWindows(folder / f"{name}.tif", cache=70_000 if name not in {"one strip"} else 1 << 20) as windows:
        part = windows.read(top, left, height, width)
    assert np.array_equal(part, whole[top : top + height, left : left + width], equal_nan=True)


def test_cache_is_bounded_and_spares_decoding(folder, monkeypatch):
    with TiffWindows(folder / "tiles.tif", cache=3 * 64 * 48 * 3) as windows:
        count = []
        decode = windows._page.decode
        monkeypatch.setattr(windows._page, "decode", lambda *a, **k: count.append(1) or decode(*a, **k), raising=False)
        windows.read(0, 0, 64, 96)
        windows.read(10, 10, 40, 80)
        assert len(count) == 2
        windows.read(0, 0, 150, 210)
        assert windows._cached <= 3 * 64 * 48 * 3
        assert len(windows._cache) <= 3


def test_threads_read_the_same(folder):
    whole = read_image(folder / "tiles.tif")
    wrong = []
    with TiffWindows(folder / "tiles.tif", cache=40_000) as windows:

        def work(seed):
            rng = np.random.default_rng(seed)
            for _ in range(30):
                top, left = rng.integers(0, 100), rng.integers(0, 150)
                if not (windows.read(top, left, 50, 60) == whole[top : top + 50, left : left + 60]).all():
                    wrong.append((top, left))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_pages(tmp_path):
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([GREY, 255 - GREY]), photometric="minisblack")
    with TiffWindows(tmp_path / "stack.tif", page=1) as windows:
        assert (windows.read(5, 6, 7, 8)[:, :, 0] == 255 - GREY[5:12, 6:14]).all()
    with pytest.raises(ImageError, match=r"there is no page 2; the file has 2$"):
        TiffWindows(tmp_path / "stack.tif", page=2)


def test_where_a_picture_lies_is_kept(tmp_path):
    keys = (1, 1, 0, 1, 1024, 0, 1, 2)
    tags = [(33550, "d", 3, (0.5, 0.5, 0.0), True), (34735, "H", 8, keys, True)]
    tifffile.imwrite(tmp_path / "geo.tif", GREY, extratags=tags)
    tifffile.imwrite(tmp_path / "plain.tif", GREY)
    with TiffWindows(tmp_path / "geo.tif") as windows, TiffWindows(tmp_path / "plain.tif") as plain:
        assert [(code, value) for code, _, _, value, _ in windows.geo_tags] == [(33550, (0.5, 0.5, 0.0)), (34735, keys)]
        assert plain.geo_tags == []
        tifffile.imwrite(tmp_path / "again.tif", GREY, extratags=windows.geo_tags)
    with TiffWindows(tmp_path / "again.tif") as again:
        assert [tag[3] for tag in again.geo_tags] == [(0.5, 0.5, 0.0), keys]


def test_pieces_that_must_be_decoded_as_a_whole_are_refused(folder):
    path = folder / "one strip.tif"
    message = (
        f"{path}: its pixels lie in pieces of 150 x 210 that must each be decoded as a whole (0 MiB); "
        "save it as a tiled TIFF"
    )
    with pytest.raises(ImageError, match=f"^{re.escape(message)}$"):
        TiffWindows(path, cache=50_000)


def test_forms_that_need_the_whole_are_refused(tmp_path):
    path = tmp_path / "turned.tif"
    tifffile.imwrite(path, GREY, extratags=[(274, "H", 1, 6, True)])
    message = f"{path}: the picture is stored turned (orientation 6), which is not read in windows; save it upright"
    with pytest.raises(ImageError, match=f"^{re.escape(message)}$"):
        TiffWindows(path)
    path = tmp_path / "cmyk.tif"
    Image.fromarray(np.dstack([COLOR, GREY]), mode="CMYK").save(path)
    message = f"{path}: colour space SEPARATED is not read in windows; save it as RGB"
    with pytest.raises(ImageError, match=f"^{re.escape(message)}$"):
        TiffWindows(path)


def test_damage_is_one_error(folder, tmp_path):
    data = (folder / "tiles.tif").read_bytes()
    for name, content in (("cut", data[: len(data) * 2 // 3]), ("empty", b""), ("png", b"\x89PNG\r\n\x1a\n")):
        path = tmp_path / f"{name}.tif"
        path.write_bytes(content)
        with pytest.raises(ImageError, match=f"^{re.escape(str(path))}: "):
            TiffWindows(path)
    with tifffile.TiffFile(folder / "tiles.tif") as file:
        offset = file.pages[0].dataoffsets[2]
    path = tmp_path / "flipped.tif"
    path.write_bytes(data[:offset] + b"\xff" * 40 + data[offset + 40 :])
    with TiffWindows(path) as windows:
        windows.read(0, 0, 10, 10)
        with pytest.raises(ImageError, match=f"^{re.escape(str(path))}: cannot be read as a picture: "):
            windows.read(0, 96, 64, 48)
    with pytest.raises(ImageError, match=r"there is no such file$"):
        TiffWindows(tmp_path / "absent.tif")


def test_a_tiff_is_known_by_its_first_bytes(folder, tmp_path):
    assert is_tiff(folder / "tiles.tif")
    assert is_tiff(folder / "BigTIFF.tif")
    assert is_tiff(folder / "plain big-endian 16 bit.tif")
    (tmp_path / "a.tif").write_bytes(b"GIF89a")
    assert not is_tiff(tmp_path / "a.tif")
    assert not is_tiff(tmp_path / "absent.tif")
