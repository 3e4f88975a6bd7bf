# SPDX-License-Identifier: Apache-2.0
"""Decoded pictures and labels kept on disk: later epochs, and later runs on the same files, map them into memory.

An entry is named by the content of both files and by how they are read, so that a changed file or another mask mapping
never meets an old entry; which file holds which content is remembered as long as size and time of change stay the same.
Entries are checked by a checksum once per process. The folder is bounded: what was not used for longest goes first, and
nothing is added where the disk is nearly full. Every fault of the cache costs the cache, never the training.

Letters: H and W height and width in pixels, C bands.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import shutil
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from denseg.data.doctor.remember import cache_folder
from denseg.files import sha256_of

__all__ = ["DecodedCache", "open_cache"]

FORMAT = 1  # changes whenever entries mean something else
HEAD = 256  # bytes before the pixels
SCANS = 64  # the folder is looked through each time that 1 / 64 of the limit was added
DAY = 24 * 3600.0
LARGE_FILE = 1 << 28
FREE_SHARE, FREE_BYTES = 0.1, 4 << 30  # of the disk, that the cache leaves alone

Entry = tuple[NDArray[Any], NDArray[Any]]


class DecodedCache:
    """Decoded pairs in one folder.

    Attributes:
        folder: Where they are.
        limit: Bytes that the folder may take.
    """

    def __init__(self, folder: Path | str, *, limit: int) -> None:
        """Prepare; nothing is read or written yet.

        Args:
            folder: Where entries are; made when the first one is kept.
            limit: Bytes that the folder may take.
        """
        self.folder = Path(folder) / f"decoded-{FORMAT}"
        self.limit = limit
        self._digests: dict[tuple[str, int, int], str] = {}
        self._known: set[str] = set()  # entries whose checksum was right
        self._size = -1  # of the folder; unknown
        self._added = 0  # since the folder was last looked through
        self._began = time.time()

    def read(self, files: Sequence[Path], how: str, decode: Callable[[], Entry]) -> Entry:
        """Give a decoded pair.

        Args:
            files: Of the picture and its mask.
            how: Everything else that decides what comes out: pages, bands, mapping.
            decode: Reads the files; called where there is no entry.

        Returns:
            Picture ``(H, W, C)`` and labels ``(H, W)``; changes to them are not kept.
        """
        try:
            path = self._path(files, how)
            entry = self._load(path)
        except (OSError, ValueError, KeyError, TypeError):
            return decode()
        if entry is None:
            entry = decode()
            with contextlib.suppress(OSError):
                self._keep(path, *entry)
        return entry

    def _path(self, files: Sequence[Path], how: str) -> Path:
        key = hashlib.sha256("\n".join([*map(self._digest, files), how]).encode()).hexdigest()
        return self.folder / key[:2] / f"{key[2:]}.bin"

    def _digest(self, path: Path) -> str:
        state = path.stat()
        known = (str(path), state.st_size, state.st_mtime_ns)
        if known not in self._digests:
            # Of very large files the state must do: each process would read them whole.
            self._digests[known] = sha256_of(path) if state.st_size <= LARGE_FILE else str(known)
        return self._digests[known]

    def _load(self, path: Path) -> Entry | None:
        try:
            content = np.memmap(path, np.uint8, mode="c")
        except (FileNotFoundError, ValueError):  # ValueError: an empty file
            return None
        head = json.loads(bytes(content[:HEAD]).rstrip(b"\0 "))
        image, labels = ((np.dtype(part["dtype"]), tuple(part["shape"])) for part in (head["image"], head["labels"]))
        cut = HEAD + _bytes(*image)
        if len(content) != cut + _bytes(*labels):
            return None
        if path.name not in self._known:
            if zlib.crc32(content[HEAD:].data) != head["crc32"]:
                return None
            self._known.add(path.name)
            if time.time() - path.stat().st_mtime > DAY:
                os.utime(path)  # used again: not the first to go
        plain = content.view(np.ndarray)
        return plain[HEAD:cut].view(image[0]).reshape(image[1]), plain[cut:].view(labels[0]).reshape(labels[1])

    def _keep(self, path: Path, image: NDArray[Any], labels: NDArray[Any]) -> None:
        size = HEAD + image.nbytes + labels.nbytes
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self._make_room(size):
            return
        parts = (np.ascontiguousarray(image), np.ascontiguousarray(labels))
        checksum = zlib.crc32(parts[1].data.cast("B"), zlib.crc32(parts[0].data.cast("B")))
        described = {
            name: {"dtype": part.dtype.str, "shape": part.shape}
            for name, part in zip(("image", "labels"), parts, strict=True)
        }
        head = json.dumps(described | {"crc32": checksum}).encode().ljust(HEAD)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(head)
                for part in parts:
                    file.write(part.data.cast("B"))
            temporary.replace(path)  # not flushed to the disk: a torn entry fails its checksum
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._known.add(path.name)
        self._size += size
        self._added += size

    def _make_room(self, size: int) -> bool:
        """Say whether an entry fits, after older ones have gone where that is needed."""
        if self._size < 0 or self._added > self.limit // SCANS or self._size + size > self.limit:
            entries = sorted(self._entries())
            self._size, self._added = sum(entry[1] for entry in entries), 0
            for changed, length, path in entries:
                if self._size + size <= self.limit or changed >= self._began:
                    break
                path.unlink(missing_ok=True)
                self._size -= length
        disk = shutil.disk_usage(self.folder)
        free = disk.free - size > max(FREE_BYTES, int(FREE_SHARE * disk.total))
        return free and self._size + size <= self.limit

    def _entries(self) -> list[tuple[float, int, Path]]:
        """List time of change, bytes and path of each entry, and of what a killed process left behind."""
        found = []
        for folder in self.folder.iterdir():
            if folder.is_dir():
                for path in folder.iterdir():
                    with contextlib.suppress(FileNotFoundError):
                        state = path.stat()
                        found.append((state.st_mtime, state.st_size, path))
        return found


def open_cache(gigabytes: float) -> DecodedCache | None:
    """Open the cache of decoded pairs in the user's cache folder.

    Args:
        gigabytes: GiB that it may take.

    Returns:
        The cache; ``None`` where it is turned off, by 0 or by an empty ``DENSEG_CACHE``.
    """
    folder = cache_folder()
    return DecodedCache(folder, limit=int(gigabytes * (1 << 30))) if folder is not None and gigabytes > 0 else None


def _bytes(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    return dtype.itemsize * math.prod(shape)
