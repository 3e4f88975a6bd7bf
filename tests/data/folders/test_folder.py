# SPDX-License-Identifier: Apache-2.0
"""Pictures and masks find each other in every usual arrangement of folders and names."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from denseg.data.folders.folder import Inventory, Pair, discover, sort_pairs, split_names
from denseg.errors import DataError


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def rows(inventory: Inventory) -> list[tuple[str, str, str, str | None]]:
    root = inventory.root
    return [
        (pair.stem, pair.image.relative_to(root).as_posix(), pair.mask.relative_to(root).as_posix(), pair.split)
        for pair in inventory.pairs
    ]


ARRANGEMENTS = {
    "flat": (("images/a.jpg", "masks/a.png"), None),
    "capitals": (("Images/a.JPG", "Masks/a.PNG"), None),
    "labels": (("img/a.jpg", "labels/a.png"), None),
    "annotations": (("JPEGImages/a.jpg", "SegmentationClass/a.png"), None),
    "split-below": (("images/train/a.jpg", "masks/train/a.png"), "train"),
    "split-above": (("val/images/a.jpg", "val/masks/a.png"), "val"),
    "validation": (("images/validation/a.jpg", "annotations/validation/a.png"), "val"),
    "joined": (("train/a.png", "trainannot/a.png"), "train"),
    "joined-masks": (("train/a.jpg", "train_masks/a_mask.gif"), "train"),
    "suffix": (("images/a.jpg", "masks/a_mask.png"), None),
    "suffix-label": (("images/a.tif", "labels/a-label.tif"), None),
    "beside": (("a.jpg", "a_mask.png"), None),
    "beside-split": (("test/a.jpg", "test/a_gt.png"), "test"),
    "nested": (("data/images/a.jpg", "data/masks/a.png"), None),
}


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_arrangements(tmp_path: Path, name: str) -> None:
    (image, mask), split = ARRANGEMENTS[name]
    touch(tmp_path, image, mask)
    inventory = discover(tmp_path)
    stem = "data-a" if name == "nested" else "a"
    assert rows(inventory) == [(stem, image, mask, split)]
    assert inventory.splits == ((split,) if split else ())
    assert inventory.unpaired_images == inventory.unpaired_masks == ()
    assert not inventory.twice


def test_a_stem_that_ends_like_a_mark_pairs_exactly_first(tmp_path: Path) -> None:
    touch(tmp_path, "images/a_mask.jpg", "images/a.jpg", "masks/a_mask.png", "masks/a.png")
    assert [row[:3] for row in rows(discover(tmp_path))] == [
        ("a", "images/a.jpg", "masks/a.png"),
        ("a_mask", "images/a_mask.jpg", "masks/a_mask.png"),
    ]


def test_folders_below_are_part_of_the_name(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{kind}/train/{city}/001.png" for kind in ("images", "masks") for city in ("bonn", "ulm")))
    assert [row[0] for row in rows(discover(tmp_path))] == ["bonn-001", "ulm-001"]


def test_one_name_in_two_splits_gets_the_split_into_its_stem(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *(
            f"{kind}/{split}/{name}.png"
            for kind in ("images", "masks")
            for split, name in (("train", "a"), ("val", "a"), ("val", "b"))
        ),
    )
    assert [row[0] for row in rows(discover(tmp_path))] == ["train-a", "b", "val-a"]


def test_what_is_left_over(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "masks/a.png", "images/b.jpg", "masks/c.png", "notes.txt", "images/.hidden.png")
    touch(tmp_path, "__MACOSX/images/a.jpg", "images/Thumbs.db")
    inventory = discover(tmp_path)
    assert [path.name for path in inventory.unpaired_images] == ["b.jpg"]
    assert [path.name for path in inventory.unpaired_masks] == ["c.png"]
    assert sorted(path.name for path in inventory.ignored) == ["Thumbs.db", "notes.txt"]


def test_twice(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/a.png", "masks/a.png", "images/b.jpg", "masks/b.png", "masks/b_mask.png")
    inventory = discover(tmp_path)
    assert inventory.pairs == ()
    assert {name: [path.name for path in files] for name, files in inventory.twice.items()} == {
        "a": ["a.jpg", "a.png", "a.png"],
        "b": ["b.jpg", "b.png", "b_mask.png"],
    }


def test_of_a_split(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{kind}/{split}/{split}.png" for kind in ("images", "masks") for split in ("test", "train")))
    inventory = discover(tmp_path)
    assert [pair.stem for pair in inventory.of("test")] == ["test"]
    assert inventory.of(None) == inventory.of("all") == inventory.pairs
    assert inventory.splits == ("train", "test")


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "masks/a.png")
    (tmp_path / "images" / "loop").symlink_to(tmp_path)
    assert len(discover(tmp_path).pairs) == 1


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "disk/x/a.jpg", "disk/y/a.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "images").symlink_to(tmp_path / "disk" / "x")
    (tmp_path / "set" / "masks").symlink_to(tmp_path / "disk" / "y")
    assert len(discover(tmp_path / "set").pairs) == 1


def described(root: Path, text: str) -> Inventory:
    touch(root, *(f"{kind}/{name}.png" for kind in ("images", "masks") for name in ("a1", "a2", "b1")))
    (root / "dataset.yaml").write_text(text)
    return discover(root)


def test_split_of_the_yaml(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("images/a1.png masks/a1.png\n\na2\n")
    inventory = described(tmp_path, "split: {train: train.txt, val: [b1]}")
    assert [(pair.stem, pair.split) for pair in inventory.pairs] == [("a1", "train"), ("a2", "train"), ("b1", "val")]


def test_groups_of_the_yaml(tmp_path: Path) -> None:
    assert [pair.group for pair in described(tmp_path, "group: '^(.)'").pairs] == ["a", "a", "b"]
    assert {pair.group for pair in described(tmp_path, "group: folder").pairs} == {"images"}


FAULTS = {
    "split: {train: [a1], val: [a1]}": "{yaml}: 'a1' is in both train and val",
    "split: {train: [a1, x], val: [y]}": (
        "{yaml}: split names 'x', and no pair has that name; 2 of 3 names are unknown"
    ),
    "split: {train: no.txt}": (
        "{yaml}: cannot read the list no.txt of a split: [Errno 2] No such file or directory: '{root}/no.txt'"
    ),
    "group: '^(x)'": "{yaml}: group '^(x)' does not match 'a1'",
}


@pytest.mark.parametrize("text", FAULTS)
def test_split_and_group_faults(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError) as error:
        described(tmp_path, text)
    assert str(error.value) == FAULTS[text].format(yaml=tmp_path / "dataset.yaml", root=tmp_path)


def test_order_of_pairs() -> None:
    pairs = [
        Pair(stem, Path(), Path(), split) for stem, split in (("b", "val"), ("a", "val"), ("c", "train"), ("d", None))
    ]
    assert [pair.stem for pair in sort_pairs(pairs)] == ["d", "c", "a", "b"]
    assert split_names(pairs) == ("train", "val")


@pytest.mark.slow
def test_two_hundred_thousand_files(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for number in range(100_000):
            os.close(os.open(tmp_path / kind / f"{number:06d}.png", os.O_CREAT | os.O_WRONLY))
    start = time.process_time()
    inventory = discover(tmp_path)
    assert len(inventory.pairs) == 100_000
    assert time.process_time() - start < 15


def stack(path: Path, pages: int, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.arange(pages * size * size).reshape(pages, size, size) % 251
    tifffile.imwrite(path, values.astype(np.uint8), photometric="minisblack")


def test_stacks_become_slices(tmp_path: Path) -> None:
    for name, pages in (("a", 12), ("b", 3), ("single", 1)):
        stack(tmp_path / "images" / f"{name}.tif", pages)
        stack(tmp_path / "masks" / f"{name}.tif", pages)
    stack(tmp_path / "images" / "unequal.tif", 3)
    stack(tmp_path / "masks" / "unequal.tif", 2)
    pairs = discover(tmp_path).pairs
    expected = [f"a_{page:02d}" for page in range(12)] + [f"b_{page}" for page in range(3)] + ["single", "unequal"]
    assert [pair.stem for pair in pairs] == expected
    assert [(pair.image_page, pair.mask_page) for pair in pairs[:12]] == [(page, page) for page in range(12)]


def test_a_broken_stack_stays_one_pair(tmp_path: Path) -> None:
    stack(tmp_path / "images" / "a.tif", 3)
    stack(tmp_path / "masks" / "a.tif", 3)
    touch(tmp_path, "images/b.tif", "masks/b.tif")
    assert [pair.stem for pair in discover(tmp_path).pairs] == ["a_0", "a_1", "a_2", "b"]


def test_groups_from_a_table(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("stem,group,age\na1,anna,30\nb1,bert,40\n")
    assert [pair.group for pair in described(tmp_path, "group: groups.csv").pairs] == ["anna", "", "bert"]
    (tmp_path / "groups.csv").write_text("stem,patient\na1,anna\n")
    with pytest.raises(DataError) as error:
        discover(tmp_path)
    assert str(error.value) == f"{tmp_path}/groups.csv: needs the columns stem and group, and has no 'group'"
    (tmp_path / "groups.csv").unlink()
    with pytest.raises(DataError, match="cannot read the groups in "):
        discover(tmp_path)


def test_what_is_left_is_paired_by_name_alone(tmp_path: Path) -> None:
    """Pictures in folders or splits that the masks do not have, as long as a name is there once."""
    for name in ("images/train/a.png", "images/val/b.png", "masks/a.png", "masks/b_mask.png", "images/cam/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "masks/other").mkdir()
    (tmp_path / "masks/other/c.png").touch()
    inventory = discover(tmp_path)
    assert [(pair.stem, pair.split) for pair in inventory.pairs] == [("c", None), ("a", "train"), ("b", "val")]
    assert (inventory.unpaired_images, inventory.unpaired_masks, inventory.twice) == ((), (), {})


def test_equal_names_from_two_folders_are_told(tmp_path: Path) -> None:
    for name in ("images/cam1/001.png", "images/cam2/001.png", "masks/001.png", "images/x.png", "masks/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    inventory = discover(tmp_path)
    assert [pair.stem for pair in inventory.pairs] == ["x"]
    assert inventory.twice == {
        "001": tuple(tmp_path / name for name in ("images/cam1/001.png", "images/cam2/001.png", "masks/001.png"))
    }
    assert (inventory.unpaired_images, inventory.unpaired_masks) == ((), ())
