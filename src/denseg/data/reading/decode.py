# SPDX-License-Identifier: Apache-2.0
"""From a file to its pixels as they are stored: the one boundary of decoders' faults.

The size in the header is checked before anything is decoded, and whatever a decoder raises leaves as
:class:`~denseg.errors.ImageError`: truncated, damaged and hostile files included.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from denseg.data.reading.stored import DEFAULT_MAX_PIXELS, Decoded, Header
from denseg.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["DEFAULT_MAX_PIXELS", "decode", "fault_boundary", "glance", "read_header"]

for _name in ("tifffile", "PIL"):
    logging.getLogger(_name).addHandler(logging.NullHandler())  # a decoder's log is not for the user's terminal


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
    with fault_boundary(path), path.open("rb") as file:
        if _is_tiff(file):
            from denseg.data.reading.tiff import tiff_header

            return tiff_header(path, file, page=page, max_pixels=max_pixels)
        _one_page(path, page)
        from denseg.data.reading.pillow import pillow_header

        return pillow_header(path, file, max_pixels=max_pixels)


def decode(path: Path, *, page: int = 0, max_pixels: int = DEFAULT_MAX_PIXELS) -> Decoded:
    """Decode a file's pixels as they are stored, upright.

    Args:
        path: The file.
        page: Which page of a TIFF, or which picture of an annotation file.
        max_pixels: More than this is refused before anything is decoded.

    Returns:
        The pixels.

    Raises:
        ImageError: The file is missing, no picture, damaged, truncated, or too large.
    """
    with fault_boundary(path), path.open("rb") as file:
        if path.suffix in {".mat", ".json"}:
            return _other_mask(path, page, max_pixels)
        if _is_tiff(file):
            from denseg.data.reading.tiff import tiff_pixels

            decoded = tiff_pixels(path, file, page=page, max_pixels=max_pixels)
            if decoded is not None:
                return decoded
            file.seek(0)  # a colour space that tifffile leaves as it is; Pillow converts it
        _one_page(path, page)
        from denseg.data.reading.pillow import pillow_pixels

        return pillow_pixels(path, file, max_pixels=max_pixels)


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
def fault_boundary(path: Path) -> Iterator[None]:
    """Let nothing but :class:`~denseg.errors.ImageError` leave the block, and mute what decoders say besides.

    Args:
        path: For messages.

    Yields:
        Nothing.

    Raises:
        ImageError: Whatever a decoder raised.
    """
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


def glance(path: Path, *, page: int = 0, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[Header, Image.Image] | None:
    """Decode an ordinary 8-bit file into Pillow's own memory: what statistics need, without a copy.

    Args:
        path: The file.
        page: Which page; only the first of an ordinary file can be had like this.
        max_pixels: More than this is refused before anything is decoded.

    Returns:
        The header, and the picture as stored, not turned; ``None`` for a file that only :func:`decode` reads right.

    Raises:
        ImageError: The file is missing, no picture, damaged, truncated, or too large.
    """
    if page or path.suffix.lower() in {".mat", ".json", ".geojson", ".gpkg"}:
        return None
    with fault_boundary(path), path.open("rb") as file:
        if _is_tiff(file):
            return None
        from denseg.data.reading.pillow import pillow_glance

        header, image = pillow_glance(path, file, max_pixels=max_pixels)
    return None if image is None else (header, image)


def _other_mask(path: Path, page: int, max_pixels: int) -> Decoded:
    """Read a mask that is no picture file: MATLAB's, or outlines that are drawn; ``page`` is the picture's id there."""
    if path.suffix == ".mat":
        from denseg.data.reading.matlab import matlab_pixels

        return matlab_pixels(path, max_pixels=max_pixels)
    from denseg.data.reading.annotations import annotated_pixels

    return annotated_pixels(path, page, max_pixels=max_pixels)


def _is_tiff(file: IO[bytes]) -> bool:
    start = file.read(4)
    file.seek(0)
    return start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _one_page(path: Path, page: int) -> None:
    if page:
        raise ImageError(f"{path}: only TIFF files have pages, and page {page} was asked for", path=path)
