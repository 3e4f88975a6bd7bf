# SPDX-License-Identifier: Apache-2.0
"""Tiled, compressed TIFF pyramids written from top to bottom: memory holds one row of tiles.

Each level is written while the next, half as large one is put aside in a scratch file, so that the picture is made once
however many levels there are. Files above 2 GiB are BigTIFF.

Letters: H and W height and width in pixels, C channels, N levels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tifffile

from denseg.files import atomic_path, make_folder, output_error

__all__ = ["TILE", "write_pyramid"]

Array = npt.NDArray[Any]
Reduce = Literal["nearest", "mean"]

TILE = 512
"""Side of a tile in pixels; bands of this many rows are what the caller gives."""


def write_pyramid(
    path: Path,
    bands: Iterable[Array],
    *,
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    reduce: Reduce,
    options: dict[str, Any],
    scratch: Path,
) -> None:
    """Write a picture, whole or not at all.

    Args:
        path: Where; its folder is made.
        bands: The picture from top to bottom, ``TILE`` rows at a time, the last band perhaps fewer.
        shape: ``(H, W)`` or ``(H, W, C)``.
        dtype: Of the bands.
        reduce: How four pixels become one: ``nearest`` for labels, ``mean`` for pictures.
        options: Of every level, for ``tifffile``: compression, photometric interpretation, ….
        scratch: A folder for smaller levels while they wait; what it held of an earlier attempt is overwritten.

    Raises:
        OutputError: There is no room, or no permission.
    """
    make_folder(path.parent)
    make_folder(scratch)
    sizes = [shape]
    while max(sizes[-1][:2]) > TILE:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2), *shape[2:]))
    kind = np.dtype(dtype)
    total = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    try:
        with (
            atomic_path(path) as temporary,
            tifffile.TiffWriter(temporary, bigtiff=total * 4 // 3 > 1 << 31) as writer,
        ):
            for level, size in enumerate(sizes):
                waiting = scratch / f"level-{level}.raw"
                source = bands if level == 0 else _stored_bands(waiting, size, kind)
                last = level == len(sizes) - 1
                following = None if last else scratch / f"level-{level + 1}.raw"
                with contextlib.nullcontext() if following is None else following.open("wb") as file:
                    keep = None if file is None else _keeper(file.write, reduce)
                    writer.write(
                        _tiles(source, size, keep),
                        shape=size,
                        dtype=kind,
                        tile=(TILE, TILE),
                        subifds=len(sizes) - 1 if level == 0 else None,
                        subfiletype=0 if level == 0 else 1,
                        metadata=None,
                        software="denseg",
                        **(options if level == 0 else {key: options[key] for key in options if key != "extratags"}),
                    )
                waiting.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(path, error) from error


def _tiles(bands: Iterable[Array], size: tuple[int, ...], keep: Callable[[Array], object] | None) -> Iterator[Array]:
    """Cut bands into tiles, the last ones filled up by repeating the edge."""
    across = -(-size[1] // TILE)
    for band in bands:
        if keep is not None:
            keep(band)
        fill = [(0, TILE - band.shape[0]), (0, across * TILE - band.shape[1])] + [(0, 0)] * (band.ndim - 2)
        full = np.pad(band, fill, mode="edge") if any(after for _, after in fill) else band
        for column in range(across):
            yield np.ascontiguousarray(full[:, column * TILE : (column + 1) * TILE])


def _keeper(write: Callable[[bytes], object], reduce: Reduce) -> Callable[[Array], object]:
    return lambda band: write(np.ascontiguousarray(_half(band, reduce)).tobytes())


def _half(band: Array, reduce: Reduce) -> Array:
    """Halve a band; an odd last row or column counts twice."""
    if reduce == "nearest":
        return band[::2, ::2]
    odd = [(0, band.shape[0] % 2), (0, band.shape[1] % 2)] + [(0, 0)] * (band.ndim - 2)
    even = np.pad(band, odd, mode="edge") if band.shape[0] % 2 or band.shape[1] % 2 else band
    summed = even[::2, ::2].astype(np.uint16)
    summed += even[1::2, ::2]
    summed += even[::2, 1::2]
    summed += even[1::2, 1::2]
    return ((summed + 2) >> 2).astype(band.dtype)


def _stored_bands(path: Path, size: tuple[int, ...], kind: np.dtype[Any]) -> Iterator[Array]:
    row = int(np.prod(size[1:])) * kind.itemsize
    with path.open("rb") as file:
        for top in range(0, size[0], TILE):
            rows = min(TILE, size[0] - top)
            yield np.frombuffer(file.read(rows * row), kind).reshape(rows, *size[1:])
