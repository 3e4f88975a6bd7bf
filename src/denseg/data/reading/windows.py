# SPDX-License-Identifier: Apache-2.0
"""TIFF pages read window by window: memory is bounded by the strips or tiles that a row of windows touches.

Each strip or tile of the file is decoded once for a row of windows and kept in a cache of bounded size; rows of an
uncompressed page are read from the disk as they are.

Letters: H and W height and width in pixels, C bands, h and w of a window.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from denseg.data.reading.decode import fault_boundary
from denseg.data.reading.images import image_info, to_image
from denseg.data.reading.stored import Decoded, Header
from denseg.data.reading.tiff import check_segments, find_page, needs_pillow, tiff_header, to_decoded
from denseg.errors import ImageError

__all__ = ["GEO_TAGS", "TiffWindows", "count_pages", "is_tiff"]

Pixels = NDArray[Any]

GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113)
"""Where a GeoTIFF says where it lies: pixel scale, tie points, transformation, keys, GDAL's metadata and no-data."""

_ANY_SIZE = 1 << 62


class TiffWindows:
    """One page of a TIFF file, open for reading in windows; safe to call from several threads.

    Attributes:
        path: The file.
        height: H.
        width: W.
        bands: C of the windows.
        dtype: ``uint8``, ``uint16`` or ``float32``: of the windows.
    """

    def __init__(self, path: Path | str, *, page: int = 0, cache: int = 256 << 20) -> None:
        """Open a file and check its header; no pixel is decoded.

        Args:
            path: The file.
            page: Which page.
            cache: Bytes of decoded strips or tiles to keep.

        Raises:
            ImageError: The file is missing, no TIFF, cut off, or of a form that must be read as a whole.
        """
        self.path = Path(path)
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, Pixels] = OrderedDict()
        self._cached, self._limit = 0, cache
        with fault_boundary(self.path):
            with self.path.open("rb") as file:
                self._header: Header = tiff_header(self.path, file, page=page, max_pixels=_ANY_SIZE)
            self._tiff = tifffile.TiffFile(self.path)
            weakref.finalize(self, self._tiff.close)  # for who keeps it open, and at the end of the process
            try:
                self._page: Any = find_page(self.path, self._tiff, page)
                self._check()
            except BaseException:
                self._tiff.close()
                raise
        info = image_info(self._header)
        self.height, self.width, self.bands, self.dtype = info.height, info.width, info.bands, info.dtype

    def __enter__(self) -> TiffWindows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._tiff.close()

    @property
    def geo_tags(self) -> list[tuple[int, int, int, Any, bool]]:
        """Tags that say where the picture lies, as ``tifffile``'s ``extratags``; empty for an ordinary picture."""
        tags = [self._page.tags.get(code) for code in GEO_TAGS]
        found = [(tag.code, int(tag.dtype), int(tag.count), tag.value, True) for tag in tags if tag is not None]
        return found if any(code == 34735 for code, *_ in found) else []

    def read(self, top: int, left: int, height: int, width: int) -> Pixels:
        """Read a window.

        Args:
            top: First row.
            left: First column.
            height: Rows; the window lies inside the picture.
            width: Columns.

        Returns:
            ``(h, w, C)``, as :func:`~denseg.data.reading.images.read_image` gives it.

        Raises:
            ImageError: The file is damaged here.
        """
        return to_image(self.decode(top, left, height, width))

    def decode(self, top: int, left: int, height: int, width: int) -> Decoded:
        """Decode a window.

        Args:
            top: First row.
            left: First column.
            height: Rows; the window lies inside the picture.
            width: Columns.

        Returns:
            The pixels as stored; the header tells of the whole page but for its size.

        Raises:
            ImageError: The file is damaged here.
        """
        with fault_boundary(self.path):
            if self._row_bytes:
                values = self._read_rows(top, left, height, width)
            else:
                values = self._assemble(top, left, height, width)
            header = replace(self._header, height=height, width=width)
            return to_decoded(self.path, self._page, header, values)

    def _check(self) -> None:
        page, path = self._page, self.path
        if needs_pillow(page):
            raise ImageError(
                f"{path}: colour space {self._header.mode} is not read in windows; save it as RGB", path=path
            )
        if self._header.orientation != 1:
            raise ImageError(
                f"{path}: the picture is stored turned (orientation {self._header.orientation}), which is not read in "
                "windows; save it upright",
                path=path,
            )
        check_segments(path, page, self._tiff.filehandle.size)
        samples = int(page.samplesperpixel)
        self._planar = samples > 1 and int(page.planarconfig) == 2
        kind = np.dtype(page.dtype)
        self._row_bytes = int(page.imagewidth) * samples * kind.itemsize if self._is_plain(kind) else 0
        rows, columns = (int(side) for side in page.chunks[-2 if samples == 1 or self._planar else -3 :][:2])
        size = rows * columns * (1 if self._planar else samples) * kind.itemsize
        if not self._row_bytes and size > self._limit:
            raise ImageError(
                f"{path}: its pixels lie in pieces of {rows} x {columns} that must each be decoded as a whole "
                f"({size >> 20} MiB); save it as a tiled TIFF",
                path=path,
            )
        self._rows, self._columns = rows, columns
        self._across = -(-int(page.imagewidth) // columns)
        self._down = -(-int(page.imagelength) // rows)

    def _is_plain(self, kind: np.dtype[Any]) -> bool:
        """Whether rows lie in the file as they are."""
        page = self._page
        stored = page.bitspersample == kind.itemsize * 8 and not self._planar and not page.is_tiled
        return bool(stored and int(page.compression) == 1 and int(page.predictor) == 1 and page.is_contiguous)

    def _read_rows(self, top: int, left: int, height: int, width: int) -> Pixels:
        kind = np.dtype(self._page.dtype).newbyteorder(self._tiff.byteorder)
        pixel = self._row_bytes // int(self._page.imagewidth)
        start = int(self._page.dataoffsets[0])
        rows = [
            self._bytes(start + row * self._row_bytes + left * pixel, width * pixel) for row in range(top, top + height)
        ]
        values = np.frombuffer(b"".join(rows), kind).astype(kind.newbyteorder("="), copy=False)
        samples = pixel // kind.itemsize
        return values.reshape((height, width) if samples == 1 else (height, width, samples))

    def _assemble(self, top: int, left: int, height: int, width: int) -> Pixels:
        samples = int(self._page.samplesperpixel)
        planes = samples if self._planar else 1
        deep = 1 if self._planar else samples
        values = np.zeros((planes, height, width, deep), self._page.dtype)
        for plane in range(planes):
            for row in range(top // self._rows, -(-(top + height) // self._rows)):
                for column in range(left // self._columns, -(-(left + width) // self._columns)):
                    piece = self._piece((plane * self._down + row) * self._across + column)
                    if piece is None:
                        continue
                    y, x = row * self._rows, column * self._columns
                    y0, y1 = max(top, y), min(top + height, y + piece.shape[0])
                    x0, x1 = max(left, x), min(left + width, x + piece.shape[1])
                    if y0 < y1 and x0 < x1:
                        values[plane, y0 - top : y1 - top, x0 - left : x1 - left] = piece[
                            y0 - y : y1 - y, x0 - x : x1 - x
                        ]
        if self._planar:
            return values[..., 0]  # (C, h, w)
        return values[0, :, :, 0] if deep == 1 else values[0]

    def _piece(self, index: int) -> Pixels | None:
        """Decode one strip or tile, ``(rows, columns, samples)``; ``None`` where the file leaves it out."""
        with self._lock:
            if index in self._cache:
                self._cache.move_to_end(index)
                return self._cache[index]
        offset, count = int(self._page.dataoffsets[index]), int(self._page.databytecounts[index])
        if count == 0:
            return None
        decoded = self._page.decode(
            self._bytes(offset, count), index, jpegtables=self._page.jpegtables, jpegheader=self._page.jpegheader
        )[0]
        if decoded is None:
            return None
        piece: Pixels = decoded[0]
        with self._lock:
            if index not in self._cache:
                self._cache[index] = piece
                self._cached += piece.nbytes
                while self._cached > self._limit:
                    self._cached -= self._cache.popitem(last=False)[1].nbytes
        return piece

    def _bytes(self, offset: int, count: int) -> bytes:
        with self._lock:
            handle = self._tiff.filehandle
            handle.seek(offset)
            data: bytes = handle.read(count)
        if len(data) != count:
            raise ImageError(f"{self.path}: the file ends early; replace it", path=self.path)
        return data


def is_tiff(path: Path) -> bool:
    """Tell by its first bytes whether a file is a TIFF.

    Args:
        path: Any path.

    Returns:
        Whether it begins like a TIFF or BigTIFF.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError:
        return False
    return start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def count_pages(path: Path) -> int:
    """Count the pictures of a TIFF: slices or frames of one size; the smaller levels of a pyramid are none.

    Args:
        path: The file.

    Returns:
        How many; 1 for whatever is no TIFF.

    Raises:
        ImageError: The file is damaged, or its bands are stored as pages.
    """
    if not is_tiff(path):
        return 1
    with fault_boundary(path), tifffile.TiffFile(path) as file:
        if len(file.pages) < 2 or not file.series:
            return 1
        series = file.series[0]
        pages = int(np.prod(series.shape[: series.ndim - len(series.keyframe.shape)], dtype=np.int64))
        if pages > 1 and "C" in series.axes[: series.ndim - len(series.keyframe.shape)]:
            raise ImageError(
                f"{path}: its bands are stored as pages (axes {series.axes}), which is not read; save them as the "
                "bands of one page",
                path=path,
            )
        return pages
