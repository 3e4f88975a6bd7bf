# SPDX-License-Identifier: Apache-2.0
"""What was seen in large data sets is kept in the user's cache: an interrupted check goes on, a second one is quick.

An answer counts as long as both files keep their size and time of change. The cache may be deleted at any time; a
damaged one is thrown away. ``DENSEG_CACHE`` names another folder, and an empty value turns it off.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from denseg.data.doctor.survey import ImageFacts, Look, MaskFacts, PairFacts
from denseg.data.reading.images import ImageInfo

__all__ = ["FactsCache", "cache_folder"]

FORMAT = 2  # changes whenever facts mean something else
BATCH = 200  # answers written at once


def cache_folder() -> Path | None:
    """Give the folder of the cache; ``None`` where it is turned off."""
    named = os.environ.get("DENSEG_CACHE")
    if named is not None:
        return Path(named) if named else None
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA")
        return Path(base) / "denseg" / "cache" if base else None
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "denseg"


class FactsCache:
    """Facts by pair, in one SQLite file; every fault of it costs the cache, never the check."""

    def __init__(self, folder: Path | None) -> None:
        """Open the cache.

        Args:
            folder: Where it is; ``None`` for none.
        """
        self._open: list[tuple[str, bytes]] = []
        self._base: sqlite3.Connection | None = None
        if folder is None:
            return
        path = folder / f"check-{FORMAT}.sqlite"
        for _ in range(2):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._base = sqlite3.connect(path, timeout=5)
                self._base.execute("CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
                return
            except (sqlite3.Error, OSError):
                self._base = None
                with contextlib.suppress(OSError):
                    path.unlink()

    def recall(self, looks: Sequence[Look]) -> Iterator[tuple[int, PairFacts]]:
        """Give what is still known.

        Args:
            looks: What is to be read.

        Yields:
            Index and facts of those that did not change since.
        """
        if self._base is None:
            return
        for index, look in enumerate(looks):
            key = _key(look)
            try:
                row = key and self._base.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
                facts = _unpack(row[0]) if row else None
            except (sqlite3.Error, ValueError, KeyError, TypeError, zlib.error):
                return
            if facts is not None:
                yield index, facts

    def keep(self, look: Look, facts: PairFacts) -> None:
        """Remember what was seen; files that could not be read are looked at again.

        Args:
            look: What was read.
            facts: What it held.
        """
        if self._base is None or facts.image is None or facts.mask is None:
            return
        key = _key(look)
        if key:
            self._open.append((key, _pack(facts)))
        if len(self._open) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what is kept."""
        if self._base is None or not self._open:
            return
        with contextlib.suppress(sqlite3.Error), self._base:
            self._base.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", self._open)
        self._open.clear()

    def close(self) -> None:
        """Write what is kept, and close the file."""
        self.flush()
        if self._base is not None:
            self._base.close()
            self._base = None


def _key(look: Look) -> str:
    """Name a pair by its files, their size and their time of change; empty where a file is gone."""
    pair = look.pair
    parts: list[object] = [
        pair.image_page,
        pair.mask_page,
        pair.window,
        *pair.pages,
        *(bit for bit, _ in pair.layers),
        look.max_pixels,
        look.shapes,
    ]
    try:
        for path in pair.files:
            state = path.stat()
            parts += [path.absolute(), state.st_size, state.st_mtime_ns]
    except OSError:
        return ""
    return "|".join(map(str, parts))


def _pack(facts: PairFacts) -> bytes:
    return zlib.compress(json.dumps(dataclasses.asdict(facts), default=_array).encode(), 1)


def _array(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.str, "shape": value.shape, "bytes": base64.b64encode(value.tobytes()).decode()}
    raise TypeError(f"no JSON for {type(value).__name__}")


def _from_array(value: Any) -> NDArray[Any]:
    content = np.frombuffer(base64.b64decode(value["bytes"]), np.dtype(value["dtype"]))
    return content.reshape(value["shape"]).copy()


def _unpack(content: bytes) -> PairFacts:
    value = json.loads(zlib.decompress(content))
    image, mask = value["image"], value["mask"]
    for key in ("low", "high", "mean", "std"):
        image[key] = tuple(image[key])
    image |= {"info": ImageInfo(**image["info"]), "thumbnail": _from_array(image["thumbnail"])}
    image["anchors"] = _from_array(image["anchors"])
    for key in ("values", "counts", "flat"):
        mask[key] = _from_array(mask[key])
    mask["info"] = ImageInfo(**mask["info"])
    mask["palette"] = None if mask["palette"] is None else _from_array(mask["palette"])
    mask["objects"] = tuple((int(v), int(count), float(area)) for v, count, area in mask["objects"])
    return PairFacts(ImageFacts(**image), MaskFacts(**mask))
