# SPDX-License-Identifier: Apache-2.0
"""Hostile picture files: each gives a result or one ImageError, in little time and memory; nothing else escapes."""

from __future__ import annotations

import io
import random
import re
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from denseg.data.reading.images import probe_image, read_image
from denseg.data.reading.masks import read_mask
from denseg.errors import ImageError

NOISE = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)


def pillow_bytes(kind: str, image: Image.Image | None = None) -> bytes:
    buffer = io.BytesIO()
    (image or Image.fromarray(NOISE)).save(buffer, kind)
    return buffer.getvalue()


def tiff_bytes(**options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, NOISE, photometric="rgb", **options)
    return buffer.getvalue()


SEEDS = {
    "png": pillow_bytes("PNG"),
    "palette": pillow_bytes("PNG", Image.fromarray(NOISE).quantize(16)),
    "jpeg": pillow_bytes("JPEG"),
    "webp": pillow_bytes("WEBP"),
    "bmp": pillow_bytes("BMP"),
    "gif": pillow_bytes("GIF"),
    "ppm": pillow_bytes("PPM"),
    "tiff": tiff_bytes(),
    "tiff-zlib": tiff_bytes(compression="zlib", predictor=True),
    "tiff-lzw": tiff_bytes(compression="lzw"),
    "tiff-jpeg": tiff_bytes(compression="jpeg"),
    "tiff-tiled": tiff_bytes(tile=(16, 16)),
}


def mutate(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if len(changed) < 10:
            break
        place, kind = rng.randrange(len(changed)), rng.random()
        if kind < 0.5:
            changed[place] ^= 1 << rng.randrange(8)
        elif kind < 0.7:
            changed[rng.randrange(min(len(changed), 300))] = rng.choice((0, 127, 128, 255))
        elif kind < 0.8:
            del changed[place + 1 :]
        elif kind < 0.9:
            changed[place : place + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
        else:
            del changed[place : place + rng.randrange(1, 9)]
    return bytes(changed)


def outcome(path: Path) -> str:
    """Read a file in all three ways; anything but a result or ImageError propagates and fails the test."""
    answers = []
    for read in (read_image, read_mask, probe_image):
        try:
            read(path)
            answers.append("read")
        except ImageError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017 - the other classes are what the test is about
            assert "\n" not in str(error)  # noqa: PT017
            answers.append("refused")
    return answers[0]


@pytest.mark.parametrize("kind", SEEDS)
def test_mutants(tmp_path: Path, kind: str) -> None:
    rng = random.Random(kind)  # noqa: S311 - a fuzz seed, no secret
    path = tmp_path / "mutant"
    results = []
    for _ in range(150):
        path.write_bytes(mutate(SEEDS[kind], rng))
        start = time.process_time()
        results.append(outcome(path))
        assert time.process_time() - start < 5
    assert results.count("refused") > 15


@pytest.mark.parametrize("kind", ["png", "palette", "tiff-zlib"])
def test_flipped_pixel_bits_never_pass_silently(tmp_path: Path, kind: str) -> None:
    """Formats with a checksum: a changed bit in the pixel data is refused, or gives exactly the right pixels."""
    content, path = SEEDS[kind], tmp_path / "flipped"
    path.write_bytes(content)
    right = read_image(path)
    rng = random.Random(0)  # noqa: S311
    for _ in range(200):
        changed = bytearray(content)
        changed[rng.randrange(len(content) // 4, len(content) - 20)] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            image = read_image(path)
        except ImageError:
            continue
        np.testing.assert_array_equal(image, right)


def ifd(entries: list[tuple[int, int, int, int]], *, following: int = 0, big: bool = False) -> bytes:
    """A TIFF of one directory and no pixels."""
    if big:
        body = struct.pack("<Q", len(entries)) + b"".join(struct.pack("<HHQQ", *entry) for entry in entries)
        return b"II+\0" + struct.pack("<HHQ", 8, 0, 16) + body + struct.pack("<Q", following)
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", following)


SIZE = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
STRIP = [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 8), (279, 4, 1, 64)]
CRAFTED = {
    "side-2^31": ifd([(256, 4, 1, 2**31 - 1), (257, 4, 1, 2**31 - 1), *SIZE[2:], *STRIP]),
    "side-2^62-bigtiff": ifd([(256, 16, 1, 2**31), (257, 16, 1, 2**31), *SIZE[2:], *STRIP], big=True),
    "samples-65529": ifd([*SIZE, (273, 4, 1, 8), (277, 3, 1, 65529), (278, 4, 1, 8), (279, 4, 1, 64)]),
    "strip-count-1e9": ifd([*SIZE, (273, 4, 10**9, 8), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, 10**9, 64)]),
    "strips-beyond-the-end": ifd([*SIZE, (273, 4, 1, 10**6), (277, 3, 1, 1), (278, 4, 1, 8), (279, 4, 1, 64)]),
    "no-strips": ifd([*SIZE, (277, 3, 1, 1)]),
    "strip-at-0": ifd([*SIZE, (273, 4, 1, 0), (277, 3, 1, 1), (278, 4, 1, 8), (279, 4, 1, 64)]),
    "zero-width": ifd([(256, 4, 1, 0), *SIZE[1:], *STRIP]),
    "circular": ifd([*SIZE, *STRIP], following=8),
    "no-tags": ifd([]),
    "bits-65535": ifd([*SIZE[:2], (258, 3, 1, 65535), *SIZE[3:], *STRIP]),
    "unknown-compression": ifd([*SIZE[:3], (259, 3, 1, 60000), (262, 3, 1, 1), *STRIP]),
    "volume": ifd([*SIZE, (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 8), (279, 4, 1, 64), (32997, 4, 1, 9)]),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_tiff_headers(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(CRAFTED[name] + b"\0" * 64)
    start = time.process_time()
    answer = outcome(path)
    assert time.process_time() - start < 1
    assert answer == ("read" if name == "circular" else "refused")


def bomb(side: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    packed = zlib.compress(b"\0" * (side * (side + 1)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def test_a_bomb_costs_neither_time_nor_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(14000))
    script = (
        "import resource, sys, time\n"
        "from denseg.data.reading.images import read_image\n"
        "from denseg.errors import ImageError\n"
        "before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()\n"
        "try:\n    read_image(sys.argv[1])\n"
        "except ImageError as error:\n"
        "    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    print((after - before) // 1024, time.process_time() - start, error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    match = re.fullmatch(r"(\d+) ([\d.e-]+) (.*)\n", result.stdout)
    assert match is not None, result.stderr
    assert int(match[1]) < 100  # MB
    assert float(match[2]) < 0.5  # seconds, the import of the decoder included
    assert "14000 x 14000 pixels = 196000000, more than the limit of 178956970" in match[3]


@pytest.mark.shared_data
def test_pillows_own_pictures(shared_data: Path) -> None:
    folder = shared_data / "pillow-images"
    answers = {path: outcome(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    read = [path for path, answer in answers.items() if answer == "read"]
    assert len(answers) > 600
    assert len(read) > 400
    slow = folder / "timeout-6646305047838720"
    assert answers[slow] == "refused"


@pytest.mark.shared_data
@pytest.mark.filterwarnings("ignore")  # Pillow's own, on files that are odd on purpose
def test_pillows_pictures_have_the_values_that_pillow_gives(shared_data: Path) -> None:
    """Where the file is 8-bit and sound, our reader and Pillow's conversion agree."""
    compared = 0
    for path in sorted((shared_data / "pillow-images").rglob("*.*")):
        if path.suffix not in {".png", ".jpg", ".webp", ".bmp", ".gif", ".jp2"} or "crash" in path.name:
            continue
        try:
            ours = read_image(path)
        except ImageError:
            continue
        if ours.dtype != np.uint8:
            continue
        with Image.open(path) as image:
            theirs = np.asarray(_upright(image).convert("RGBA")).astype(float)
        shown = theirs[:, :, :3] * theirs[:, :, 3:] / 255
        assert np.abs(ours - shown).max() <= 1, path.name
        compared += 1
    assert compared > 250


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)
