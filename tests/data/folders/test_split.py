# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from denseg.data.folders.folder import Pair
from denseg.data.folders.split import assign_split, make_split, split_rows
from denseg.errors import DataError, ImageError, UsageError


def names(count: int) -> list[str]:
    return [f"image_{index:03d}" for index in range(count)]


def held(split: dict[str, str]) -> set[str]:
    return {name for name, where in split.items() if where == "val"}


@given(count=st.integers(2, 60), share=st.floats(0.01, 0.99), seed=st.integers(0, 2**31 - 1))
def test_about_the_share_is_held_out_and_both_sides_have_pictures(count: int, share: float, seed: int) -> None:
    split = make_split(names(count), val_share=share, seed=seed)
    assert list(split) == names(count)
    number = len(held(split))
    assert 1 <= number <= count - 1
    assert abs(number - min(max(share * count, 1), count - 1)) <= 0.5 + 1e-9


def test_the_split_depends_on_names_and_seed_only() -> None:
    split = make_split(names(50), val_share=0.2, seed=3)
    assert make_split(reversed(names(50)), val_share=0.2, seed=3) == split
    assert make_split(names(50), val_share=0.2, seed=4) != split
    # Written down: other machines and versions must agree, or a run could not be replayed.
    assert sorted(held(make_split(names(10), val_share=0.3, seed=0))) == EXPECTED_OF_SEED_0


# The three smallest SHA-256 of "0\npicture:image_NNN".
EXPECTED_OF_SEED_0 = sorted(
    sorted(names(10), key=lambda name: hashlib.sha256(f"0\npicture:{name}".encode()).hexdigest())[:3]
)


def test_a_picture_that_is_added_moves_at_most_the_cut() -> None:
    before = held(make_split(names(100), val_share=0.2, seed=0))
    after = held(make_split([*names(100), "another"], val_share=0.2, seed=0))
    assert len(before ^ (after - {"another"})) <= 1


@given(sizes=st.lists(st.integers(1, 7), min_size=2, max_size=12), share=st.floats(0.05, 0.95), seed=st.integers(0, 99))
def test_groups_are_never_divided(sizes: list[int], share: float, seed: int) -> None:
    groups = {f"g{group}_{index}": f"g{group}" for group, size in enumerate(sizes) for index in range(size)}
    split = make_split(groups, val_share=share, seed=seed, groups=groups)
    for group in set(groups.values()):
        assert len({split[name] for name, own in groups.items() if own == group}) == 1
    assert set(split.values()) == {"train", "val"}


@pytest.mark.parametrize(
    ("stems", "groups", "what"),
    [
        ([], None, "none"),
        (["a"], None, "1 picture"),
        (["a", "b", "c"], dict.fromkeys("abc", "video"), "3 pictures of 1 group"),
    ],
)
def test_nothing_to_hold_out_is_refused(stems: list[str], groups: dict[str, str] | None, what: str) -> None:
    message = (
        f"a split needs at least 2 pictures of different groups, got {what}; "
        "add labelled pictures, or bring train and val folders"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        make_split(stems, val_share=0.5, seed=0, groups=groups)


def test_a_wrong_call_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^val_share must be above 0 and below 1, got 1\.0$"):
        make_split(names(4), val_share=1.0, seed=0)
    with pytest.raises(UsageError, match=r"^a split needs each name once, got 'b' twice$"):
        make_split(["a", "b", "c", "b"], val_share=0.5, seed=0)


def pair(stem: str, split: str | None = None, group: str = "") -> Pair:
    return Pair(stem, Path(f"images/{stem}.png"), Path(f"masks/{stem}.png"), split, group=group)


def test_the_folders_own_val_split_is_kept() -> None:
    pairs = [pair("a", "train"), pair("b", "val"), pair("c", "test"), pair("d")]
    assigned, made = assign_split(pairs, val_share=0.2, seed=0)
    assert not made
    assert [one.split for one in assigned] == ["train", "val", "test", "train"]


def test_only_training_pictures_are_divided_and_test_pictures_stay_aside() -> None:
    pairs = [pair(name, "train") for name in names(20)] + [pair("t1", "test"), pair("t2", "test")]
    assigned, made = assign_split(pairs, val_share=0.25, seed=0)
    assert made
    splits = [one.split for one in assigned]
    assert (splits.count("train"), splits.count("val"), splits.count("test")) == (15, 5, 2)
    assert splits[-2:] == ["test", "test"]
    assert pairs[0].split == "train"


def test_pairs_of_one_group_stay_together() -> None:
    pairs = [pair(name, group=f"video{index % 4}") for index, name in enumerate(names(40))]
    assigned, _ = assign_split(pairs, val_share=0.25, seed=0)
    assert {one.group for one in assigned if one.split == "val"}.isdisjoint(
        one.group for one in assigned if one.split == "train"
    )
    assert sum(one.split == "val" for one in assigned) == 10


@pytest.mark.parametrize(
    ("pairs", "found"),
    [
        ([pair("a", "val"), pair("b", "test")], "the folder's splits are test, val"),
        ([], "the folder has no pair"),
    ],
)
def test_no_training_picture_is_told(pairs: list[Pair], found: str) -> None:
    message = (
        f"there is no picture to train on: {found}; name the training split train, "
        "or put all pictures flat into images/ and masks/"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        assign_split(pairs, val_share=0.2, seed=0)


def test_rows_hold_relative_paths_and_the_content(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    image, mask = tmp_path / "data/images/a.png", tmp_path / "data/masks/a.png"
    image.write_bytes(b"picture")
    mask.write_bytes(b"mask")
    away = tmp_path / "away.png"
    away.write_bytes(b"mask")
    inside = Pair("a", image, mask, "train")
    (row, other) = split_rows([inside, Pair("b", image, away, "val")], tmp_path / "data")
    digests = hashlib.sha256(b"picture").digest() + hashlib.sha256(b"mask").digest()
    assert row == ("a", "images/a.png", "masks/a.png", "train", hashlib.sha256(digests).hexdigest(), 0, 0, "")
    assert other.mask == away.as_posix()
    assert other.sha256 == row.sha256
    (part,) = split_rows([replace(inside, image_page=3, mask_page=2, window=(8, 0, 64, 32))], tmp_path / "data")
    assert part == (*row[:5], 3, 2, "8,0,64,32")
    mask.write_bytes(b"Mask")
    assert split_rows([inside], tmp_path / "data")[0].sha256 != row.sha256


def test_a_file_that_has_gone_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone.png"
    with pytest.raises(ImageError, match=f"^cannot read {re.escape(str(gone))}: No such file or directory$") as caught:
        split_rows([Pair("a", gone, gone, "train")], tmp_path)
    assert caught.value.path == gone


def test_rare_classes_lie_on_both_sides_where_they_can() -> None:
    """Class 2 is in two of forty pictures; without mending both often land on one side."""
    listed = names(40)
    lost = 0
    for seed in range(40):
        rare = {listed[seed % 40], listed[(seed * 7 + 3) % 40]}
        classes = {name: [0, 1, 2] if name in rare else [0, 1] for name in listed}
        plain = make_split(listed, val_share=0.2, seed=seed)
        lost += len({plain[name] for name in rare}) == 1
        mended = make_split(listed, val_share=0.2, seed=seed, classes=classes)
        assert len(rare) == 1 or {mended[name] for name in rare} == {"train", "val"}
        moved = [name for name in listed if plain[name] != mended[name]]
        assert len(moved) <= 1
        assert set(moved) <= rare
    assert lost > 15


def test_mending_parts_no_group_and_takes_no_other_class_away() -> None:
    listed = names(30)
    groups = {name: f"scene {index // 3}" for index, name in enumerate(listed)}
    for seed in range(30):
        kinds = [{0, 1 + index // 3 % 5} for index in range(30)]
        classes = dict(zip(listed, kinds, strict=True))
        split = make_split(listed, val_share=0.25, seed=seed, groups=groups, classes=classes)
        assert all(len({split[name] for name in listed if groups[name] == group}) == 1 for group in groups.values())
        plain = make_split(listed, val_share=0.25, seed=seed, groups=groups)
        for side in ("train", "val"):
            before, after = (
                {kind for name in listed if division[name] == side for kind in classes[name]}
                for division in (plain, split)
            )
            assert after >= before


def test_classes_that_every_picture_has_change_nothing() -> None:
    listed = names(50)
    split = make_split(listed, val_share=0.2, seed=3)
    assert make_split(listed, val_share=0.2, seed=3, classes=dict.fromkeys(listed, (0, 1))) == split
    assert make_split(listed, val_share=0.2, seed=3, classes={}) == split
