# SPDX-License-Identifier: Apache-2.0
"""JPEG, PNG, WebP, BMP, GIF, PPM, JPEG 2000 and AVIF through Pillow, without its silent conversions.

16-bit colour PNG, which Pillow cuts to 8 bits, goes through imagecodecs; transparency becomes an alpha plane; EXIF and
XMP orientation are applied.

Letters: H and W height and width in pixels, C channels.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from denseg.data.reading.stored import Decoded, Header, Kind, check_size, opaque, orient

__all__ = ["pillow_glance", "pillow_header", "pillow_pixels"]

Pixels = NDArray[Any]
Alpha = NDArray[np.float32]

# Pillow knows thirty more; they run other programs (EPS), or are parsers of game textures that nobody's data needs.
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "AVIF")
_KINDS: dict[str, tuple[Kind, int, str]] = {
    "1": ("grey", 1, "bool"),
    "L": ("grey", 1, "uint8"),
    "LA": ("grey", 1, "uint8"),
    "La": ("grey", 1, "uint8"),
    "I": ("grey", 1, "int32"),
    "F": ("grey", 1, "float32"),
    "P": ("palette", 1, "uint8"),
    "PA": ("palette", 1, "uint8"),
}
_TO_RGB = {"CMYK", "YCbCr", "LAB", "HSV", "RGBX"}
_ALPHA_MODES = {"LA", "La", "PA", "RGBA", "RGBa"}
_ORIENTATION = 0x0112


def pillow_header(path: Path, file: IO[bytes], *, max_pixels: int) -> Header:
    """Read the header of a file.

    Args:
        path: For messages.
        file: The open file.
        max_pixels: More than this is refused.

    Returns:
        The header.
    """
    with _open(path, file) as image:
        check_size(path, image.width, image.height, max_pixels)
        return _header(image, file)


def pillow_pixels(path: Path, file: IO[bytes], *, max_pixels: int) -> Decoded:
    """Decode a file, its first frame where it has several.

    Args:
        path: For messages.
        file: The open file.
        max_pixels: More than this is refused before anything is decoded.

    Returns:
        The pixels.
    """
    with _open(path, file) as image:
        check_size(path, image.width, image.height, max_pixels)
        header = _header(image, file)
        if _is_deep(image):
            return _with_alpha(header, _deep_pixels(image, file))
        top = _stretched_from(image)
        clear = image.info.get("transparency")
        if image.mode in _TO_RGB:
            image = image.convert("RGB")
        elif image.mode in {"La", "RGBa"}:
            image = image.convert(image.mode.upper())
        values = np.asarray(image)
        if header.kind == "palette":
            return _indices(header, image, values, clear)
        if header.dtype == "uint16":
            values = values.astype(np.uint16)
        if top:
            values = _unstretched(values, top)
            clear = round(clear * top / 255) if isinstance(clear, int) else clear
        if values.ndim == 3 and values.shape[2] in (2, 4):
            return _with_alpha(header, values)
        return _upright(header, values, None, _keyed_alpha(values, clear))


def pillow_glance(path: Path, file: IO[bytes], *, max_pixels: int) -> tuple[Header, Image.Image | None]:
    """Decode a file into Pillow's own memory: what statistics need, without a copy.

    Args:
        path: For messages.
        file: The open file.
        max_pixels: More than this is refused before anything is decoded.

    Returns:
        The header, and the picture as stored, not turned; ``None`` where Pillow's form is not the stored one.
    """
    with _open(path, file) as image:
        check_size(path, image.width, image.height, max_pixels)
        header = _header(image, file)
        if image.mode not in {"L", "RGB", "P"} or header.alpha or _is_deep(image) or _stretched_from(image):
            return header, None
        image.load()
        return header, image


@contextmanager
def _open(path: Path, file: IO[bytes]) -> Iterator[Image.Image]:
    """Open by format plugin: ``Image.open`` would apply Pillow's global size limit instead of ours."""
    Image.init()
    start = file.read(16)
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or accept is None or not _accepted(accept(start)):
            continue
        file.seek(0)
        try:
            image = factory(file, str(path))
        except (SyntaxError, IndexError, TypeError, KeyError, struct.error) as error:
            raise ValueError(f"damaged {name} header ({error})") from error
        with image:
            yield image
        return
    raise ValueError("not a picture format that denseg reads (JPEG, PNG, TIFF, WebP, BMP, GIF, PPM, JPEG 2000, AVIF)")


def _accepted(answer: bool | str) -> bool:
    """Read a plugin's answer to "is this yours": a text means "mine, but the library for it is missing"."""
    return bool(answer) and not isinstance(answer, str)


def _header(image: Image.Image, file: IO[bytes]) -> Header:
    kind, channels, dtype = _KINDS.get(image.mode, ("color", 3, "uint8"))
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in {"PNG", "PPM"}):
        kind, channels, dtype = "grey", 1, "uint16"
    if _is_deep(image):
        kind, channels, dtype = ("grey", 1, "uint16") if _tile_mode(image)[0] == "L" else ("color", 3, "uint16")
    if image.format == "JPEG2000" and image.mode in {"RGB", "RGBA"} and _j2k_bits(image) > 8:
        raise ValueError("16-bit colour in JPEG 2000 cannot be read at full depth; save it as TIFF or PNG")
    orientation = _orientation(image, file)
    height, width = (image.width, image.height) if orientation >= 5 else (image.height, image.width)
    alpha = image.mode in _ALPHA_MODES or "transparency" in image.info
    frames = int(getattr(image, "n_frames", 1))
    name, mode = str(image.format), image.mode
    top = min(_stretched_from(image) or 255, 255)
    return Header(height, width, channels, dtype, kind, mode, name, frames, orientation, alpha, top)


def _orientation(image: Image.Image, file: IO[bytes]) -> int:
    """Read the orientation; a damaged EXIF block does not make the pixels unreadable, viewers show them as stored."""
    try:
        # a PNG's EXIF may lie behind its pixels; Pillow would decode them all to look there
        value = _png_orientation(file) if image.format == "PNG" else image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _png_orientation(file: IO[bytes]) -> int:
    """Look for the orientation in the chunks before and behind the pixels: eXIf, XMP, or ImageMagick's raw profile."""
    before = file.tell()
    file.seek(8)
    found = 1
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind in {b"eXIf", b"iTXt", b"tEXt", b"zTXt"} and length < 1 << 20:
            found = _chunk_orientation(kind, file.read(length)) or found
            file.seek(4, 1)
        else:
            file.seek(length + 4, 1)
    file.seek(before)
    return found


def _chunk_orientation(kind: bytes, body: bytes) -> int | None:
    if kind == b"iTXt":
        match = re.search(rb"tiff:Orientation(?:=\"|>)([1-8])", body)
        return int(match[1]) if match else None
    if kind != b"eXIf":
        keyword, _, text = body.partition(b"\0")
        if keyword != b"Raw profile type exif":
            return None
        text = zlib.decompressobj().decompress(text[1:], 1 << 20) if kind == b"zTXt" else text
        body = bytes.fromhex("".join(text.decode("ascii").split("\n")[3:]))
    exif = Image.Exif()
    exif.load(body)
    value = exif.get(_ORIENTATION)
    return value if isinstance(value, int) else None


def _tile(image: Image.Image) -> tuple[int, Any]:
    """Give where the pixels start and how they are packed, as the format's plugin left it."""
    tiles: Any = getattr(image, "tile", ())
    return (int(tiles[0][2]), tiles[0][3]) if tiles else (0, "")


def _tile_mode(image: Image.Image) -> str:
    mode = _tile(image)[1]
    return str(mode[0] if isinstance(mode, tuple) else mode)


def _is_deep(image: Image.Image) -> bool:
    """Whether this is 16-bit colour or grey-alpha, which Pillow would cut to 8 bits."""
    if image.format == "PPM":
        return _tile_mode(image) == "RGB" and _ppm_top(image) > 255
    return image.format == "PNG" and image.mode in {"RGB", "RGBA", "LA"} and _tile_mode(image).endswith(";16B")


def _stretched_from(image: Image.Image) -> int:
    """Give the stored value of white where Pillow stretches grey to 255 or 65535; 0 where it does not."""
    if image.format == "PNG" and image.mode == "L":
        return {"L;2": 3, "L;4": 15}.get(_tile_mode(image), 0)
    return _ppm_top(image)


def _ppm_top(image: Image.Image) -> int:
    """Give the value of white in a PPM that Pillow would stretch to 255 or 65535; 0 where it does not."""
    packing = _tile(image)[1]
    return int(packing[1]) if image.format == "PPM" and isinstance(packing, tuple) and len(packing) == 2 else 0


def _j2k_bits(image: Image.Image) -> int:
    """Read the bits per channel from the SIZ marker of a JPEG 2000 codestream."""
    file: Any = getattr(image, "fp")  # noqa: B009
    file.seek(0)
    start: bytes = file.read(4096)
    file.seek(0)
    at = start.find(b"\xff\x4f\xff\x51")
    return (start[at + 42] & 0x7F) + 1 if 0 <= at < len(start) - 42 else 8


def _deep_pixels(image: Image.Image, file: IO[bytes]) -> Pixels:
    if image.format == "PPM":
        file.seek(_tile(image)[0])
        size = (image.height, image.width, 3)
        content = file.read(2 * size[0] * size[1] * size[2])
        return np.frombuffer(content, ">u2").reshape(size).astype(np.uint16)
    import imagecodecs

    file.seek(0)
    return np.asarray(imagecodecs.png_decode(file.read()))


def _unstretched(values: Pixels, top: int) -> Pixels:
    """Undo Pillow's stretching of ``0..top`` to the full range: a mask's ids must stay what they are."""
    full = 255 if top <= 255 else 65535
    return np.rint(values.astype(np.float64) * (top / full)).astype(np.uint8 if top <= 255 else np.uint16)


def _indices(header: Header, image: Image.Image, values: Pixels, clear: object) -> Decoded:
    colors = np.asarray(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    alpha: Alpha | None = None
    if values.ndim == 3:  # PA
        values, alpha = values[:, :, 0], np.asarray(values[:, :, 1] / 255, np.float32)
    elif isinstance(clear, bytes | int):
        table = np.ones(256, np.float32)
        if isinstance(clear, bytes):
            table[: len(clear)] = np.frombuffer(clear, np.uint8)[:256] / np.float32(255)
        elif 0 <= clear < 256:
            table[clear] = 0
        alpha = table[values]
    return _upright(header, values, colors, alpha)


def _keyed_alpha(values: Pixels, clear: object) -> Alpha | None:
    """Turn a PNG's or GIF's "this colour is transparent" into an alpha plane."""
    if not isinstance(clear, int | tuple):
        return None
    same = values == (bool(clear) if values.dtype == bool else np.asarray(clear))
    return np.asarray(~(same.all(axis=2) if same.ndim == 3 else same), np.float32)


def _with_alpha(header: Header, values: Pixels) -> Decoded:
    alpha: Alpha | None = None
    if values.ndim == 3 and values.shape[2] in (2, 4):
        alpha = np.asarray(values[:, :, -1] / np.iinfo(values.dtype).max, np.float32)
        values = values[:, :, 0] if values.shape[2] == 2 else values[:, :, :3]
    return _upright(header, values, None, alpha)


def _upright(header: Header, values: Pixels, palette: NDArray[np.uint8] | None, alpha: Alpha | None) -> Decoded:
    kept = None if alpha is None or opaque(alpha) else orient(alpha, header.orientation)
    return Decoded(header, orient(values, header.orientation), palette, kept)
