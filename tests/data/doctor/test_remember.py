# SPDX-License-Identifier: Apache-2.0
"""The cache gives exactly what was seen, forgets what changed, and never stands in the way."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from denseg.data.doctor import doctor
from denseg.data.doctor.doctor import Examination, examine
from denseg.data.doctor.remember import FactsCache, cache_folder
from denseg.data.doctor.survey import Look, PairFacts, look_at
from denseg.data.folders.folder import discover

MakePairs = Callable[..., Path]


@pytest.fixture
def looks(tmp_path: Path, make_pairs: MakePairs) -> list[Look]:
    make_pairs(tmp_path / "data", {"": 5})
    colors = np.asarray([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)
    path = tmp_path / "data" / "masks" / "image_000.png"
    Image.fromarray(colors[np.asarray(Image.open(path))]).save(path)
    image = Image.open(tmp_path / "data" / "masks" / "image_001.png").convert("P")
    image.save(tmp_path / "data" / "masks" / "image_001.png")
    return [Look(pair, shapes=index % 2 == 0) for index, pair in enumerate(discover(tmp_path / "data").pairs)]


def equal(first: PairFacts, second: PairFacts) -> bool:
    def same(a: object, b: object) -> bool:
        if isinstance(a, np.ndarray):
            return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
        if isinstance(a, dict) and isinstance(b, dict):
            return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
        return a == b

    return same(dataclasses.asdict(first), dataclasses.asdict(second))


def filled(folder: Path, looks: list[Look]) -> None:
    cache = FactsCache(folder)
    for look in looks:
        cache.keep(look, look_at(look))
    cache.close()


def test_facts_come_back_exactly(looks: list[Look], tmp_path: Path) -> None:
    filled(tmp_path / "cache", looks)
    recalled = dict(FactsCache(tmp_path / "cache").recall(looks))
    assert sorted(recalled) == [0, 1, 2, 3, 4]
    for index, look in enumerate(looks):
        assert equal(recalled[index], look_at(look))


def test_what_changed_is_forgotten(looks: list[Look], tmp_path: Path) -> None:
    filled(tmp_path / "cache", looks)
    os.utime(looks[0].pair.image, ns=(1, 1))
    looks[1].pair.mask.unlink()
    looks[2] = dataclasses.replace(looks[2], max_pixels=10**6)
    assert sorted(dict(FactsCache(tmp_path / "cache").recall(looks))) == [3, 4]


def test_unreadable_files_are_not_kept(looks: list[Look], tmp_path: Path) -> None:
    looks[0].pair.image.write_bytes(b"broken")
    filled(tmp_path / "cache", looks)
    assert sorted(dict(FactsCache(tmp_path / "cache").recall(looks))) == [1, 2, 3, 4]


@pytest.mark.parametrize("damage", ["text", "row", "folder"])
def test_a_damaged_cache_is_thrown_away(looks: list[Look], tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "cache"
    filled(folder, looks)
    (path,) = folder.iterdir()
    if damage == "text":
        path.write_bytes(b"this is no database" * 100)
    elif damage == "row":
        with sqlite3.connect(path) as base:
            base.execute("UPDATE facts SET value = 'x'")
        base.close()
    else:
        path.unlink()
        path.mkdir()
    assert list(FactsCache(folder).recall(looks)) == []


def test_without_a_folder_nothing_is_kept(looks: list[Look]) -> None:
    cache = FactsCache(None)
    cache.keep(looks[0], look_at(looks[0]))
    assert list(cache.recall(looks)) == []
    cache.close()


def test_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSEG_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")
    monkeypatch.setenv("DENSEG_CACHE", "")
    assert cache_folder() is None
    monkeypatch.delenv("DENSEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    if os.name != "nt":
        assert cache_folder() == Path("/caches/denseg")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[int]]:
    """How many pairs were read, with the cache on for small folders too."""
    read: list[int] = []

    def count(look: Look) -> PairFacts:
        read.append(1)
        return look_at(look)

    monkeypatch.setattr(doctor, "REMEMBERED", 2)
    monkeypatch.setattr(doctor, "look_at", count)
    monkeypatch.setenv("DENSEG_CACHE", str(tmp_path / "cache"))
    return iter([read])


def test_an_interrupted_check_goes_on(make_pairs: MakePairs, tmp_path: Path, counted: Iterator[list[int]]) -> None:
    read = next(counted)
    root = make_pairs(tmp_path / "data", {"": 6})

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        examine(root, workers=1, progress=stop)
    assert len(read) == 4
    again: Examination = examine(root, workers=1)
    assert len(read) == 6
    third = examine(root, workers=1)
    assert len(read) == 6
    assert again.findings == third.findings
    assert again.fingerprint == third.fingerprint
    np.testing.assert_array_equal(again.counts, third.counts)
