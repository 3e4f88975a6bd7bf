# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from denseg.data.doctor.anchors import KEPT, find_anchors, find_overlaps
from denseg.data.doctor.doctor import Examination, examine


def scene(seed: int, size: tuple[int, int] = (500, 700)) -> np.ndarray:
    """Smooth blobs with a little noise: no photograph, and as hard as one."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (size[0] // 20, size[1] // 20), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC), np.int16)
    return np.clip(smooth + rng.integers(-6, 7, size), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("down", "right"), [(0, 120), (90, 0), (63, 117), (-40, 101)])
def test_crops_of_one_scene_are_found_with_their_shift(down: int, right: int) -> None:
    whole = scene(1)
    first = whole[100:356, 50:306]
    second = whole[100 + down : 356 + down, 50 + right : 306 + right]
    anchors = [find_anchors(scene(5)[:256, :256]), find_anchors(first), find_anchors(second)]
    assert find_overlaps(anchors) == [(1, 2, down, right)]


def test_other_scenes_copies_and_flat_pictures_share_nothing() -> None:
    pictures = [scene(seed)[:256, :256] for seed in range(6)]
    pictures += [pictures[0].copy(), np.zeros((256, 256), np.uint8), np.zeros((256, 256), np.uint8)]
    pictures += [np.tile(np.arange(64, dtype=np.uint8), (256, 4)) for _ in range(2)]  # one pattern, everywhere
    assert find_overlaps([find_anchors(picture) for picture in pictures]) == []


def test_anchors_are_few_and_lie_inside() -> None:
    found = find_anchors(scene(3))
    assert 20 < len(found) <= KEPT
    assert found[:, 1].max() <= 500 - 8
    assert found[:, 2].max() <= 700 - 8
    assert len(find_anchors(np.zeros((7, 300), np.uint8))) == 0
    assert len(find_anchors(np.zeros((15, 15), np.uint8))) == 0


def examine_tiles(root: Path, splits: tuple[str, ...]) -> Examination:
    """Tiles of 256 every 128 pixels of three scenes, each scene's in turn to the splits."""
    for seed, name in enumerate(("elm", "fir", "oak")):
        whole = np.stack([scene(seed + 10)] * 3, axis=2)
        for place in range(4):
            tile = whole[:256, place * 128 : place * 128 + 256]
            below = splits[place % len(splits)] if splits else ""
            for kind in ("images", "masks"):
                (root / kind / below).mkdir(parents=True, exist_ok=True)
            stem = f"{name}-{'abcd'[place]}"
            Image.fromarray(tile).save(root / "images" / below / f"{stem}.png")
            Image.fromarray((tile[..., 0] > 120).astype(np.uint8)).save(root / "masks" / below / f"{stem}.png")
    return examine(root)


def test_the_doctor_keeps_crops_of_a_scene_together(tmp_path: Path) -> None:
    examination = examine_tiles(tmp_path, ())
    (found,) = [finding for finding in examination.findings if finding.code == "overlapping-crops"]
    assert found.count == 9
    assert found.message == (
        "9 pairs of pictures show the same part of a scene, first elm-a.png and elm-b.png, shifted by 0 rows and 128"
        " columns"
    )
    groups = {pair.stem.partition("-")[0]: set() for pair in examination.pairs}  # type: dict[str, set[str]]
    for pair in examination.pairs:
        groups[pair.stem.partition("-")[0]].add(pair.group)
    assert [len(names) for names in groups.values()] == [1, 1, 1]
    assert len(set.union(*groups.values())) == 3


def test_the_doctor_warns_of_crops_in_several_splits(tmp_path: Path) -> None:
    examination = examine_tiles(tmp_path, ("train", "val"))
    (found,) = [finding for finding in examination.findings if finding.code == "overlapping-crops-across-splits"]
    assert (found.severity, found.count) == ("warning", 9)
    assert re.match(r"9 pairs of pictures show the same part of a scene, first train/\S+ and val/\S+,", found.message)
    assert examination.ok
