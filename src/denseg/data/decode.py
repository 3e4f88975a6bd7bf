# SPDX-License-Identifier: Apache-2.0
"""From a file to its pixels as they are stored: the one place where a decoder runs and the one boundary of its faults.

Palette indices stay indices, alpha stays apart, 16 bits stay 16 bits; ``images.py`` and ``masks.py`` say what the
pixels mean. The size in the header is checked before anything is decoded, and whatever a decoder raises leaves as
:class:`~denseg.errors.ImageError`.

Letters: H and W height and width in pixels, after the orientation that the file asks for; C channels.
"""

from __future__ import annotations

import logging
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from denseg.errors import ImageError

__all__ = ["DEFAULT_MAX_PIXELS", "Decoded", "Header", "check_size", "decode", "orient", "read_header"]

Pixels = NDArray[Any]
Kind = Literal["grey", "palette", "color", "bands"]

DEFAULT_MAX_PIXELS = 178_956_970  # where Pillow itself gives up; DataConfig.max_pixels has the same default
FORMATS = (
    "JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "MPO", "JPEG2000", "TGA", "AVIF", "DIB", "SGI", "PCX", "QOI",
    "ICO", "ICNS", "DDS", "XBM", "XPM", "MSP", "SUN", "IM", "BLP", "CUR", "DCX", "FLI", "FTEX", "GBR", "PSD", "SPIDER",
)  # fmt: skip
# What Pillow also knows runs other programs (EPS) or is no picture of pixels (PDF, WMF, HDF5 stubs).

for _name in ("tifffile", "PIL"):
    logging.getLogger(_name).addHandler(logging.NullHandler())  # a decoder's log is not for the user's terminal


@dataclass(frozen=True)
class Header:
    """What a file says about itself before its pixels are decoded.

    Attributes:
        height: Pixels, after the orientation.
        width: Pixels, after the orientation.
        channels: Stored values per pixel without alpha; 1 for a palette.
        dtype: Of the stored values, numpy's name.
        kind: What the values are.
        mode: Pillow's mode, or TIFF's photometric interpretation.
        format: ``PNG``, ``JPEG``, ``TIFF``, ….
        frames: Pages or frames in the file; 1 where the format has one.
        orientation: EXIF orientation, 1..8; 1 is upright.
        alpha: Whether some pixels can be transparent.
    """

    height: int
    width: int
    channels: int
    dtype: str
    kind: Kind
    mode: str
    format: str
    frames: int = 1
    orientation: int = 1
    alpha: bool = False


@dataclass(frozen=True)
class Decoded:
    """The pixels of one file as stored.

    Attributes:
        header: What the file said about itself.
        values: ``(H, W)`` for grey and palette, ``(H, W, C)`` for colour and bands; the stored dtype.
        palette: ``(N, 3)`` uint8, for kind ``palette``.
        alpha: ``(H, W)`` float32 in 0..1, or ``None`` where every pixel is opaque by format.
    """

    header: Header
    values: Pixels
    palette: NDArray[np.uint8] | None = None
    alpha: NDArray[np.float32] | None = None


def read_header(path: Path, *, page: int = 0, max_pixels: int = DEFAULT_MAX_PIXELS) -> Header:
    """Read what a file says about itself; no pixel is decoded.

    Args:
        path: The file.
        page: Which page of a TIFF.
        max_pixels: More than this is refused.

    Returns:
        The header.

    Raises:
        ImageError: The file is missing, no picture, damaged in its header, or too large.
    """
    with _boundary(path), path.open("rb") as file:
        if _is_tiff(file):
            from denseg.data.tiff import tiff_header

            return tiff_header(path, file, page=page, max_pixels=max_pixels)
        _one_page(path, page)
        with _open(path, file) as image:
            check_size(path, image.width, image.height, max_pixels)
            return _header(image)


def decode(path: Path, *, page: int = 0, max_pixels: int = DEFAULT_MAX_PIXELS) -> Decoded:
    """Decode a file's pixels as they are stored, upright.

    Args:
        path: The file.
        page: Which page of a TIFF.
        max_pixels: More than this is refused before anything is decoded.

    Returns:
        The pixels.

    Raises:
        ImageError: The file is missing, no picture, damaged, truncated, or too large.
    """
    with _boundary(path), path.open("rb") as file:
        if _is_tiff(file):
            from denseg.data.tiff import tiff_pixels

            decoded = tiff_pixels(path, file, page=page, max_pixels=max_pixels)
            if decoded is not None:
                return decoded
            file.seek(0)  # colour spaces that tifffile leaves as they are; Pillow converts them
        _one_page(path, page)
        with _open(path, file) as image:
            check_size(path, image.width, image.height, max_pixels)
            return _pixels(file, image)


def orient(values: Pixels, orientation: int) -> Pixels:
    """Bring pixels into the position that an EXIF orientation asks for.

    Args:
        values: ``(H, W)`` or ``(H, W, C)``.
        orientation: 1..8; anything else counts as 1.

    Returns:
        The turned pixels; a view where that is possible.
    """
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values


def check_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    """Refuse a size that is empty or beyond the limit.

    Args:
        path: For the message.
        width: Pixels.
        height: Pixels.
        max_pixels: The limit.

    Raises:
        ImageError: The size is refused.
    """
    if width < 1 or height < 1:
        raise ImageError(f"{path}: the header says {width} x {height} pixels; replace the file", path=path)
    if width * height > max_pixels:
        raise ImageError(
            f"{path}: {width} x {height} = {width * height} pixels is more than the limit of {max_pixels}; cut it into"
            f" tiles, or raise the limit with --set data.max_pixels={width * height}",
            path=path,
        )


_FAULTS: tuple[tuple[type[Exception], str], ...] = (
    (FileNotFoundError, "there is no such file"),
    (IsADirectoryError, "it is a folder, not a file"),
    (PermissionError, "permission denied"),
    (MemoryError, "decoding it needs more memory than there is"),
)
_SIGNS = (
    (b"version https://git-lfs", "it is a Git LFS pointer; run `git lfs pull` to fetch the picture itself"),
    (b"<", "it is a web page or another text, not a picture; download it again"),
    (b"%PDF", "it is a PDF; export its pages as PNG"),
)
_TRUNCATED = ("truncated", "unexpected end", "not enough image data", "ends early")


@contextmanager
def _boundary(path: Path) -> Iterator[None]:
    try:
        with _muted:
            yield
    except ImageError:
        raise
    except Exception as error:  # damaged files make decoders raise anything: fifteen classes were counted
        raise ImageError(f"{path}: cannot be read as a picture: {_reason(path, error)}", path=path) from error


def _reason(path: Path, error: Exception) -> str:
    for kind, reason in _FAULTS:
        if isinstance(error, kind):
            return reason
    said = " ".join(str(error).split())[:160] or type(error).__name__
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError:
        return said
    if not start:
        return "the file is empty; replace it"
    for sign, reason in _SIGNS:
        if start.lstrip().startswith(sign):
            return reason
    if any(word in said.lower() for word in _TRUNCATED):
        return f"the file ends early or is damaged ({said}); replace it"
    return f"{said}; replace the file"


class _Muted:
    """Mute decoders' warnings; unlike a bare ``catch_warnings`` the blocks of several threads may overlap."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._catcher = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._depth += 1
            if self._depth == 1:
                self._catcher = warnings.catch_warnings()
                self._catcher.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *fault: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._catcher.__exit__(None, None, None)


_muted = _Muted()


def _is_tiff(file: IO[bytes]) -> bool:
    start = file.read(4)
    file.seek(0)
    return start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _one_page(path: Path, page: int) -> None:
    if page:
        raise ImageError(f"{path}: only TIFF files have pages, and page {page} was asked for", path=path)


@contextmanager
def _open(path: Path, file: IO[bytes]) -> Iterator[Image.Image]:
    """Open by format plugin: ``Image.open`` would apply Pillow's global size limit instead of ours."""
    Image.init()
    start = file.read(16)
    for name in FORMATS:
        if name not in Image.OPEN:
            continue
        factory, accept = Image.OPEN[name]
        accepted = accept(start) if accept else True
        if not accepted or isinstance(accepted, str):
            continue
        file.seek(0)
        try:
            image = factory(file, str(path))
        except (SyntaxError, IndexError, TypeError, KeyError, struct.error):
            continue  # how plugins say "not mine"
        with image:
            yield image
        return
    raise ValueError("not a picture format that denseg reads (JPEG, PNG, WebP, TIFF, BMP, GIF, PPM, JPEG 2000, AVIF)")


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


def _header(image: Image.Image) -> Header:
    kind, channels, dtype = _KINDS.get(image.mode, ("color", 3, "uint8"))
    if image.mode.startswith("I;16"):
        kind, channels, dtype = "grey", 1, "uint16"
    if _deep(image):
        channels, dtype, kind = (3, "uint16", "color") if "RGB" in image.mode else (1, "uint16", "grey")
    if image.mode == "I" and image.format in {"PNG", "PPM"}:
        dtype = "uint16"
    orientation = _orientation(image)
    height, width = (image.width, image.height) if orientation >= 5 else (image.height, image.width)
    alpha = image.mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in image.info
    frames = int(getattr(image, "n_frames", 1))
    return Header(height, width, channels, dtype, kind, image.mode, str(image.format), frames, orientation, alpha)


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged EXIF block does not make the pixels unreadable; every viewer shows them as stored
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _deep(image: Image.Image) -> bool:
    """Whether this is a 16-bit colour or grey-alpha PNG, which Pillow would silently cut to 8 bits."""
    tile = image.tile[0] if image.format == "PNG" and image.tile else None
    return tile is not None and str(tile[3]).endswith(";16B") and image.mode in {"RGB", "RGBA", "LA"}


def _pixels(file: IO[bytes], image: Image.Image) -> Decoded:
    header = _header(image)
    if _deep(image):
        file.seek(0)
        return _split_alpha(header, _deep_png(file.read()))
    transparency = image.info.get("transparency")
    if image.mode in {"CMYK", "YCbCr", "LAB", "HSV", "RGBX"}:
        image = image.convert("RGB")
    elif image.mode in {"La", "RGBa"}:
        image = image.convert(image.mode.upper())
    values = np.asarray(image)
    if header.kind == "palette":
        return _palette(header, image, values, transparency)
    if header.dtype == "uint16":
        values = values.astype(np.uint16)
    if values.ndim == 3 and values.shape[2] in (2, 4):
        return _split_alpha(header, values)
    alpha = None
    if isinstance(transparency, int | tuple):
        clear = values == np.asarray(transparency)
        alpha = 1 - (clear.all(axis=2) if clear.ndim == 3 else clear).astype(np.float32)
    return _upright(header, values, None, alpha)


def _palette(header: Header, image: Image.Image, values: Pixels, transparency: object) -> Decoded:
    colors = np.asarray(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    alpha = None
    if values.ndim == 3:
        values, alpha = values[:, :, 0], values[:, :, 1].astype(np.float32) / 255
    elif isinstance(transparency, bytes | int):
        table = np.ones(256, np.float32)
        if isinstance(transparency, bytes):
            table[: len(transparency)] = np.frombuffer(transparency, np.uint8)[:256] / 255
        elif 0 <= transparency < 256:
            table[transparency] = 0
        alpha = table[values]
    return _upright(header, values, colors, alpha)


def _deep_png(content: bytes) -> Pixels:
    import imagecodecs

    values: Pixels = np.asarray(imagecodecs.png_decode(content))
    return values


def _split_alpha(header: Header, values: Pixels) -> Decoded:
    alpha = None
    if values.ndim == 3 and values.shape[2] in (2, 4):
        alpha = values[:, :, -1].astype(np.float32) / np.iinfo(values.dtype).max
        values = values[:, :, 0] if values.shape[2] == 2 else values[:, :, :3]
    return _upright(header, values, None, alpha)


def _upright(
    header: Header, values: Pixels, palette: NDArray[np.uint8] | None, alpha: NDArray[np.float32] | None
) -> Decoded:
    if alpha is not None:
        alpha = None if bool((alpha >= 1).all()) else orient(alpha, header.orientation)
    return Decoded(header, orient(values, header.orientation), palette, alpha)
