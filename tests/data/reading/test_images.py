# SPDX-License-Identifier: Apache-2.0
"""The image zoo: every trap gives exactly the right values, or one ImageError that names the file and the remedy."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from denseg.data.reading.images import ImageInfo, match_bands, probe_image, read_image
from denseg.data.reading.masks import read_mask
from denseg.errors import ImageError

GREY = (np.arange(6 * 5).reshape(6, 5) * 8).astype(np.uint8)
RGB = np.stack([GREY, 255 - GREY, GREY // 2], axis=2)
DEEP = (np.arange(6 * 5).reshape(6, 5) * 2000 + 7).astype(np.uint16)
DEEP_RGB = np.stack([DEEP, 65535 - DEEP, DEEP // 3], axis=2)
MODE_1 = GREY > 100
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
INDICES = (np.arange(30).reshape(6, 5) % 4).astype(np.uint8)
ALPHA = np.where(INDICES > 0, 255, 0).astype(np.uint8)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def palette_image() -> Image.Image:
    image = Image.frombytes("P", (5, 6), INDICES.tobytes())
    image.putpalette(PALETTE)
    return image


def with_alpha(values: np.ndarray) -> np.ndarray:
    values = values[:, :, None] if values.ndim == 2 else values
    return np.where(ALPHA[:, :, None] > 0, values, 0)


COLORS = np.asarray(PALETTE, np.uint8).reshape(-1, 3)[INDICES]
FLOAT = (GREY / 7).astype(np.float32)

PILLOW_ZOO = {
    "1.png": (lambda: Image.fromarray(MODE_1), {}, (MODE_1 * 255).astype(np.uint8)),
    "1.bmp": (lambda: Image.fromarray(MODE_1), {}, (MODE_1 * 255).astype(np.uint8)),
    "L.png": (lambda: Image.fromarray(GREY), {}, GREY),
    "L.webp": (lambda: Image.fromarray(RGB), {"lossless": True}, RGB),
    "L.bmp": (lambda: Image.fromarray(GREY), {}, GREY),
    "L.pgm": (lambda: Image.fromarray(GREY), {}, GREY),
    "RGB.png": (lambda: Image.fromarray(RGB), {}, RGB),
    "RGB.ppm": (lambda: Image.fromarray(RGB), {}, RGB),
    "RGB.jp2": (lambda: Image.fromarray(RGB.repeat(8, 0).repeat(8, 1)), {}, RGB.repeat(8, 0).repeat(8, 1)),
    "P.png": (palette_image, {}, COLORS),
    "P.gif": (palette_image, {}, COLORS),
    "P-clear.png": (palette_image, {"transparency": 0}, with_alpha(COLORS)),
    "P-clear-bytes.png": (palette_image, {"transparency": b"\x00\xff\xff\xff"}, with_alpha(COLORS)),
    "LA.png": (lambda: Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]), {}, with_alpha(GREY)),
    "RGBA.png": (lambda: Image.fromarray(np.dstack([RGB, ALPHA])), {}, with_alpha(RGB)),
    "RGBA-opaque.png": (lambda: Image.fromarray(np.dstack([RGB, np.full_like(GREY, 255)])), {}, RGB),
    "RGB-key.png": (lambda: Image.fromarray(COLORS), {"transparency": (0, 0, 0)}, COLORS),
    "I16.png": (lambda: Image.fromarray(DEEP), {}, DEEP),
    "I16.pgm": (lambda: Image.fromarray(DEEP.astype(np.int32)), {}, DEEP),
    "F.tif": (lambda: Image.fromarray(FLOAT), {}, FLOAT),
    "RGBA.tif": (lambda: Image.fromarray(np.dstack([RGB, ALPHA])), {}, with_alpha(RGB)),
    "P.tif": (palette_image, {}, COLORS),
    "1.tif": (lambda: Image.fromarray(MODE_1), {}, (MODE_1 * 255).astype(np.uint8)),
    "1-g4.tif": (lambda: Image.fromarray(MODE_1), {"compression": "group4"}, (MODE_1 * 255).astype(np.uint8)),
    "L-lzw.tif": (lambda: Image.fromarray(GREY), {"compression": "tiff_lzw"}, GREY),
}


def expect(path: Path, expected: np.ndarray) -> None:
    expected = expected[:, :, None] if expected.ndim == 2 else expected
    image = read_image(path)
    assert image.dtype == expected.dtype
    np.testing.assert_array_equal(image, expected)
    assert image.flags.c_contiguous
    info = probe_image(path)
    assert (info.height, info.width, info.bands) == image.shape
    assert info.dtype == image.dtype.name


@pytest.mark.parametrize("name", PILLOW_ZOO)
def test_pillow_zoo(tmp_path: Path, name: str) -> None:
    make, options, expected = PILLOW_ZOO[name]
    expect(save(tmp_path / name, make(), **options), expected)


@pytest.mark.parametrize("name", ["rgb16.png", "rgba16.png", "la16.png"])
def test_16_bit_png_keeps_its_depth(tmp_path: Path, name: str) -> None:
    deep_alpha = ALPHA.astype(np.uint16) * 257
    values = {
        "rgb16.png": DEEP_RGB,
        "rgba16.png": np.dstack([DEEP_RGB, deep_alpha]),
        "la16.png": np.dstack([DEEP, deep_alpha]),
    }[name]
    path = tmp_path / name
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(values)))
    expected = DEEP_RGB if "rgb" in name else DEEP
    expect(path, with_alpha(expected).astype(np.uint16) if "a16" in name else expected)


def test_ppm_keeps_depth_and_values(tmp_path: Path) -> None:
    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6\n# made by hand\n5 6\n65535\n" + DEEP_RGB.astype(">u2").tobytes())
    expect(path, DEEP_RGB)
    path.write_bytes(b"P5\n5 6\n4095\n" + (DEEP // 16).astype(">u2").tobytes())
    expect(path, DEEP // 16)
    path.write_bytes(b"P5\n5 6\n10\n" + (GREY // 26).tobytes())
    expect(path, np.rint(GREY // 26 * 25.5).astype(np.uint8))
    np.testing.assert_array_equal(read_mask(path).values, GREY // 26)


def test_cmyk_and_lab_become_rgb(tmp_path: Path) -> None:
    cmyk = Image.fromarray(RGB.repeat(8, 0).repeat(8, 1)).convert("CMYK")
    jpeg = save(tmp_path / "cmyk.jpg", cmyk, quality=100, subsampling=0)
    assert np.abs(read_image(jpeg).astype(int) - RGB.repeat(8, 0).repeat(8, 1)).max() <= 8
    tiff = save(tmp_path / "cmyk.tif", cmyk)
    expect(tiff, np.asarray(cmyk.convert("RGB")))
    lab = Image.merge("LAB", [Image.fromarray(band) for band in (GREY, GREY, GREY)])
    expect(save(tmp_path / "lab.tif", lab), np.asarray(lab.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = (255, 0, 0)
    upright[8:, 16:] = (0, 0, 255)
    turn = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a),
        7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    path = tmp_path / f"a{suffix}"
    stored = np.ascontiguousarray(turn(upright))
    if suffix == ".tif":
        tifffile.imwrite(path, stored, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    else:
        exif = Image.Exif()
        exif[274] = orientation
        lossless = {"quality": 100, "subsampling": 0} if suffix == ".jpg" else {}
        save(path, Image.fromarray(stored), exif=exif, **lossless, **({"lossless": True} if suffix == ".webp" else {}))
    image = read_image(path)
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).max() <= 2
    info = probe_image(path)
    assert (info.height, info.width, info.orientation) == (16, 24, orientation)


TIFF_ZOO = {
    "tiled": {"tile": (16, 16)},
    "deflate": {"compression": "zlib"},
    "lzw-predictor": {"compression": "lzw", "predictor": True},
    "zstd": {"compression": "zstd"},
    "bigtiff": {"bigtiff": True},
    "big-endian": {"byteorder": ">"},
    "strips": {"rowsperstrip": 2},
}


@pytest.mark.parametrize("form", TIFF_ZOO)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_tiff_forms(tmp_path: Path, form: str, dtype: type) -> None:
    values = np.random.default_rng(0).integers(0, 250, (37, 21)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, **TIFF_ZOO[form])
    expect(tmp_path / "a.tif", values)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("bands", [2, 4, 5, 8, 64])
def test_tiff_bands_stay_bands(tmp_path: Path, planar: str, bands: int) -> None:
    values = np.random.default_rng(0).integers(0, 60000, (9, 7, bands)).astype(np.uint16)
    stored = values if planar == "contig" else np.moveaxis(values, 2, 0)
    options = {"photometric": "minisblack", "planarconfig": planar, "extrasamples": ["unspecified"] * (bands - 1)}
    tifffile.imwrite(tmp_path / "a.tif", stored, **options)
    expect(tmp_path / "a.tif", values)


def test_tiff_four_bands_are_alpha_only_where_declared(tmp_path: Path) -> None:
    values = np.dstack([RGB, ALPHA])
    tifffile.imwrite(tmp_path / "nir.tif", values, photometric="rgb", extrasamples=["unspecified"])
    expect(tmp_path / "nir.tif", values)
    tifffile.imwrite(tmp_path / "alpha.tif", values, photometric="rgb", extrasamples=["unassalpha"])
    expect(tmp_path / "alpha.tif", with_alpha(RGB))


@pytest.mark.parametrize(
    ("dtype", "values"), [("int16", [-5, 0, 300]), ("uint32", [0, 9, 70000]), ("float64", [0, 0.5, -3])]
)
def test_tiff_other_numbers_become_float32(tmp_path: Path, dtype: str, values: list[float]) -> None:
    array = np.asarray([values], dtype)
    tifffile.imwrite(tmp_path / "a.tif", array)
    expect(tmp_path / "a.tif", array.astype(np.float32))


def test_tiff_nan_is_kept(tmp_path: Path) -> None:
    values = np.asarray([[1.5, np.nan], [np.inf, 0]], np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values)
    expect(tmp_path / "a.tif", values)


def test_tiff_white_is_zero(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY, photometric="miniswhite")
    expect(tmp_path / "a.tif", 255 - GREY)


def test_tiff_packed_bits(tmp_path: Path) -> None:
    values = (GREY // 16).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", values, bitspersample=4, compression=None)
    expect(tmp_path / "a.tif", values * 17)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif").values, values)


@pytest.mark.parametrize("bits", [2, 4])
def test_png_of_few_bits(tmp_path: Path, bits: int) -> None:
    values = (GREY >> (8 - bits)).astype(np.uint8)
    path = tmp_path / "a.png"
    path.write_bytes(packed_png(values, bits))
    expect(path, values * (255 // (2**bits - 1)))
    np.testing.assert_array_equal(read_mask(path).values, values)


def test_tiff_pages(tmp_path: Path) -> None:
    pages = np.stack([DEEP, DEEP + 1, DEEP + 2])
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    assert probe_image(tmp_path / "a.tif").frames == 3
    for page in range(3):
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif", page=page)[:, :, 0], pages[page])
    with pytest.raises(ImageError) as error:
        read_image(tmp_path / "a.tif", page=3)
    assert str(error.value) == f"{tmp_path}/a.tif: there is no page 3; the file has 3"


def test_one_pixel_and_one_row(tmp_path: Path) -> None:
    for shape in [(1, 1), (1, 300), (300, 1)]:
        values = np.full(shape, 77, np.uint8)
        for name in ("a.png", "a.tif", "a.bmp"):
            Image.fromarray(values).save(tmp_path / name)
            expect(tmp_path / name, values)


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert probe_image(tmp_path / "a.gif").frames == 2
    assert set(np.unique(read_image(tmp_path / "a.gif"))) == {10}


def test_info_says_what_the_file_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    path = save(tmp_path / "a.png", palette_image(), exif=exif, transparency=0)
    expected = ImageInfo(5, 6, 3, "uint8", "P", "PNG", frames=1, orientation=6, alpha=True, palette=True)
    assert probe_image(path) == expected


def png(width: int, height: int, content: bytes = b"", *, bits: int = 8, color: int = 2) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


def packed_png(values: np.ndarray, bits: int) -> bytes:
    planes = (values[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1  # (H, W) -> (H, W, bits)
    rows = np.packbits(planes.reshape(len(values), -1).astype(np.uint8), axis=1)
    return png(values.shape[1], len(values), b"".join(b"\0" + row.tobytes() for row in rows), bits=bits, color=0)


def failure(path: Path, **options: int) -> str:
    with pytest.raises(ImageError) as error:
        read_image(path, **options)
    assert error.value.path == path
    return str(error.value)


def test_bombs_are_refused_from_the_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(30000, 30000))
    message = (
        f"{path}: 30000 x 30000 pixels = 900000000, more than the limit of 178956970; cut the picture into tiles,"
        " or raise the limit with --set data.max_pixels=900000000"
    )
    assert failure(path) == message
    with pytest.raises(ImageError, match=re.escape(message)):
        probe_image(path)


def test_the_limit_is_ours_not_pillows(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(np.zeros((40, 50), np.uint8)))
    assert "50 x 40 pixels = 2000, more than the limit of 1999;" in failure(path, max_pixels=1999)
    assert read_image(path, max_pixels=2000).shape == (40, 50, 1)
    path.write_bytes(png(20000, 20000))
    assert probe_image(path, max_pixels=500_000_000).width == 20000  # Pillow's own limit would refuse this


def test_many_bands_lower_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((10, 10, 64), np.float32), photometric="minisblack", planarconfig="contig")
    assert failure(path, max_pixels=1000) == (
        f"{path}: 10 x 10 pixels of 256 bytes count as 1600, more than the limit of 1000; cut the picture into tiles,"
        " or raise the limit with --set data.max_pixels=1600"
    )


KNOWN = "JPEG, PNG, TIFF, WebP, BMP, GIF, PPM, JPEG 2000, AVIF"
NO_PICTURE = [
    (b"", "the file is empty; replace it"),
    (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "it is a Git LFS pointer; run `git lfs pull` to fetch the picture itself",
    ),
    (b"<!DOCTYPE html><html>404", "it is a web page or another text, not a picture; download it again"),
    (b"%PDF-1.4", "it is a PDF; export its pages as PNG"),
    (b"hello", f"not a picture format that denseg reads ({KNOWN}); replace the file"),
]


@pytest.mark.parametrize(("content", "reason"), NO_PICTURE)
def test_files_that_are_no_picture(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert failure(path) == f"{path}: cannot be read as a picture: {reason}"


def test_missing_folder_and_forbidden(tmp_path: Path) -> None:
    assert failure(tmp_path / "no.png") == f"{tmp_path}/no.png: cannot be read as a picture: there is no such file"
    assert failure(tmp_path) == f"{tmp_path}: cannot be read as a picture: it is a folder, not a file"


def test_pages_are_for_tiff(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(GREY))
    assert failure(path, page=1) == f"{path}: only TIFF files have pages, and page 1 was asked for"


def encoded(suffix: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    if suffix == ".tif":
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, noise, photometric="rgb", rowsperstrip=8)
        return buffer.getvalue()
    if suffix == ".zip.tif":
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, noise, photometric="rgb", compression="zlib", tile=(32, 32))
        return buffer.getvalue()
    buffer = io.BytesIO()
    kind = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF"}[suffix]
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".gif", ".tif", ".zip.tif"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, share: float) -> None:
    content = encoded(suffix)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content[: int(len(content) * share)])
    message = failure(path)
    assert message.startswith(f"{path}: cannot be read as a picture: ")
    assert message.endswith(("replace it", "replace the file"))


def test_match_bands() -> None:
    grey = GREY[:, :, None]
    assert match_bands(grey, 1, "a.png") is grey
    np.testing.assert_array_equal(match_bands(grey, 3, "a.png"), np.dstack([GREY] * 3))
    np.testing.assert_array_equal(match_bands(np.dstack([GREY] * 3), 1, "a.png"), grey)
    with pytest.raises(ImageError) as error:
        match_bands(RGB, 1, "a.png")
    assert str(error.value) == "a.png: 3 bands, expected 1; convert it or remove it"
