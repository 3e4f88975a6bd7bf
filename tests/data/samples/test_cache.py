# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import pickle
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from denseg.config import AugmentConfig
from denseg.data.encoding import MaskEncoding
from denseg.data.folders.folder import discover
from denseg.data.samples import cache as module
from denseg.data.samples.augment import Augmentation
from denseg.data.samples.cache import DecodedCache, open_cache
from denseg.data.samples.dataset import SegmentationDataset
from denseg.data.samples.loader import make_loader
from denseg.data.samples.normalization import Normalization

HOW = "as it is"


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture(autouse=True)
def _empty_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that tests run on may have a full disk."""
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: Usage(1 << 40, 0, 1 << 40))


class Files:
    """Pairs of files of one size, and how often they were decoded."""

    def __init__(self, root: Path, count: int = 1, shape: tuple[int, ...] = (30, 40, 3), dtype: str = "uint8") -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.paths = [(root / f"{index}.a", root / f"{index}.b") for index in range(count)]
        rng = np.random.default_rng(0)
        self.values = []
        for image, mask in self.paths:
            image.write_bytes(rng.bytes(20))
            mask.write_bytes(rng.bytes(20))
            self.values.append((rng.integers(0, 200, shape).astype(dtype), rng.integers(0, 9, shape[:2], np.uint8)))
        self.decoded = 0

    def read(self, cache: DecodedCache, index: int = 0, how: str = HOW) -> tuple[np.ndarray, np.ndarray]:
        def decode() -> tuple[np.ndarray, np.ndarray]:
            self.decoded += 1
            return self.values[index]

        return cache.read(self.paths[index], how, decode)


def entries(cache: DecodedCache) -> list[Path]:
    return sorted(cache.folder.rglob("*.bin"))


@pytest.mark.parametrize(("shape", "dtype"), [((30, 40, 3), "uint8"), ((7, 5, 1), "uint16"), ((9, 3, 12), "float32")])
def test_what_was_decoded_comes_back_as_it_was(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    files = Files(tmp_path / "data", 2, shape, dtype)
    for cache in (DecodedCache(tmp_path, limit=1 << 20), DecodedCache(tmp_path, limit=1 << 20)):
        for _ in range(2):
            for index in (0, 1):
                image, labels = files.read(cache, index)
                assert image.dtype == dtype
                np.testing.assert_array_equal(image, files.values[index][0])
                np.testing.assert_array_equal(labels, files.values[index][1])
    assert files.decoded == 2
    assert len(entries(cache)) == 2


def test_what_is_changed_by_a_reader_is_not_kept(tmp_path: Path) -> None:
    files, cache = Files(tmp_path / "data"), DecodedCache(tmp_path, limit=1 << 20)
    files.read(cache)
    image, labels = files.read(cache)
    image[:], labels[:] = 0, 0
    again = files.read(cache)
    np.testing.assert_array_equal(again[0], files.values[0][0])
    np.testing.assert_array_equal(again[1], files.values[0][1])


def test_entries_are_named_by_content(tmp_path: Path) -> None:
    files, cache = Files(tmp_path / "data", 2), DecodedCache(tmp_path, limit=1 << 20)
    files.read(cache)
    files.read(cache, how="another mapping")
    assert files.decoded == 2
    moved = tmp_path / "data" / "moved"
    moved.mkdir()
    files.paths[0] = tuple(path.rename(moved / path.name) for path in files.paths[0])  # type: ignore[misc]
    files.read(cache)
    assert files.decoded == 2
    files.paths[0][1].write_bytes(b"another mask")
    files.read(cache)
    assert files.decoded == 3


@pytest.mark.parametrize("damage", ["flipped", "short", "empty", "head"])
def test_a_damaged_entry_is_decoded_again(tmp_path: Path, damage: str) -> None:
    files, cache = Files(tmp_path / "data"), DecodedCache(tmp_path, limit=1 << 20)
    files.read(cache)
    (entry,) = entries(cache)
    content = bytearray(entry.read_bytes())
    content[300] ^= 1
    content = {"short": content[:-1], "empty": bytearray(), "head": bytearray(b"?") + content[1:]}.get(damage, content)
    entry.write_bytes(content)
    fresh = DecodedCache(tmp_path, limit=1 << 20)
    image, _ = files.read(fresh)
    np.testing.assert_array_equal(image, files.values[0][0])
    assert files.decoded == 2
    if damage != "head":
        files.read(fresh)
        assert files.decoded == 2


def test_the_folder_keeps_its_limit_and_loses_the_oldest(tmp_path: Path) -> None:
    files = Files(tmp_path / "data", 12)
    size = module.HEAD + files.values[0][0].nbytes + files.values[0][1].nbytes
    first = DecodedCache(tmp_path, limit=4 * size)
    for index in range(4):
        files.read(first, index)
    for age, path in enumerate(sorted(entries(first), key=lambda path: path.stat().st_mtime)):
        past = time.time() - 1000 + age
        os.utime(path, (past, past))
    oldest = min(entries(first), key=lambda path: path.stat().st_mtime)
    second = DecodedCache(tmp_path, limit=4 * size)
    files.read(second, 4)
    assert not oldest.exists()
    assert len(entries(second)) == 4
    for index in range(4, 12):
        files.read(second, index)
        assert sum(path.stat().st_size for path in entries(second)) <= 4 * size
    # What this run has kept itself is not thrown away for the rest: else a larger data set would keep nothing.
    decoded = files.decoded
    for index in range(4, 8):
        files.read(second, index)
    assert files.decoded == decoded


def test_a_nearly_full_disk_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: Usage(1 << 40, 1 << 40, 1 << 30))
    files, cache = Files(tmp_path / "data"), DecodedCache(tmp_path, limit=1 << 20)
    files.read(cache)
    assert entries(cache) == []


def test_a_folder_that_cannot_be_written_costs_only_the_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    files, cache = Files(tmp_path / "data"), DecodedCache(tmp_path / "file", limit=1 << 20)
    for _ in range(2):
        np.testing.assert_array_equal(files.read(cache)[0], files.values[0][0])
    assert files.decoded == 2


def test_a_missing_file_is_told_by_its_reader(tmp_path: Path) -> None:
    cache = DecodedCache(tmp_path, limit=1 << 20)

    def decode() -> Any:
        raise LookupError("the reader's own words")

    with pytest.raises(LookupError, match=r"^the reader's own words$"):
        cache.read([tmp_path / "no.png"], HOW, decode)


def test_samples_are_the_same_with_and_without(tiny_data: Path, tmp_path: Path) -> None:
    def make(cache: DecodedCache | None) -> SegmentationDataset:
        return SegmentationDataset(
            discover(tiny_data).of("train"),
            encoding=MaskEncoding.identity(3),
            normalization=Normalization.imagenet(),
            ignore_index=255,
            augmentation=Augmentation(scale=(1, 1), further=AugmentConfig(gain=0.2)),
            crop=(32, 32),
            cache=cache,
        )

    plain = make(None)
    for workers in (0, 2):
        cache = pickle.loads(pickle.dumps(DecodedCache(tmp_path, limit=1 << 24)))  # noqa: S301 - our own bytes
        with make_loader(make(cache), batch_size=2, shuffle=True, workers=workers) as loader:
            for epoch in range(3):
                for batch in loader.epoch(epoch):
                    for place, index in enumerate(batch["index"].tolist()):
                        for name in ("images", "target"):
                            torch.testing.assert_close(batch[name][place], plain[(epoch, index)][name])
    assert len(entries(DecodedCache(tmp_path, limit=1))) == 4


def test_the_users_cache_can_be_turned_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DENSEG_CACHE", str(tmp_path))
    cache = open_cache(0.5)
    assert cache is not None
    assert (cache.folder.parent, cache.limit) == (tmp_path, 1 << 29)
    assert open_cache(0) is None
    monkeypatch.setenv("DENSEG_CACHE", "")
    assert open_cache(8) is None


def test_pictures_are_mapped_not_read(tmp_path: Path) -> None:
    """A crop of a large picture touches few pages of the entry."""
    files, cache = Files(tmp_path / "data", 1, (2000, 1000, 3)), DecodedCache(tmp_path, limit=1 << 30)
    files.read(cache)
    image, _ = files.read(cache)
    base: Any = image
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    assert Image.fromarray(image[:4, :4]).size == (4, 4)
