# SPDX-License-Identifier: Apache-2.0
"""K-fold division."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from denseg.data.folders.folder import Pair
from denseg.data.folders.folds import assign_fold, make_folds
from denseg.errors import DataError


@given(count=st.integers(2, 60), folds=st.integers(2, 7), seed=st.integers(0, 9))
def test_folds_are_even_and_depend_on_names_alone(count: int, folds: int, seed: int) -> None:
    names = [f"picture_{place}" for place in range(count)]
    if count < folds:
        return
    found = make_folds(names, folds, seed=seed)
    sizes = Counter(found.values())
    assert set(sizes) == set(range(1, folds + 1))
    assert max(sizes.values()) - min(sizes.values()) <= 1
    assert make_folds(reversed(names), folds, seed=seed) == found


def test_another_seed_divides_otherwise() -> None:
    names = [str(place) for place in range(40)]
    assert make_folds(names, 5, seed=0) != make_folds(names, 5, seed=1)


def test_groups_stay_together() -> None:
    names = [str(place) for place in range(30)]
    groups = {name: f"patient {int(name) // 6}" for name in names}
    found = make_folds(names, 3, seed=0, groups=groups)
    for patient in set(groups.values()):
        assert len({found[name] for name in names if groups[name] == patient}) == 1
    assert sorted(Counter(found.values()).values()) == [6, 12, 12]


def test_too_few_pictures() -> None:
    with pytest.raises(DataError) as caught:
        make_folds(["a", "b", "c"], 3, seed=0, groups={"a": "x", "b": "x"})
    assert str(caught.value) == "3 folds need at least 3 pictures of different groups, got 2; take fewer folds"


def test_every_picture_judges_once_and_test_stays_apart() -> None:
    splits = ["train", "val", None, "train", "train", "val", "test", "train"]
    pairs = [
        Pair(stem=str(place), image=Path(f"{place}.png"), mask=Path(f"{place}m.png"), split=split)
        for place, split in enumerate(splits)
    ]
    judged: Counter[str] = Counter()
    for fold in (1, 2, 3):
        assigned = assign_fold(pairs, fold, 3, seed=0)
        assert assigned[6].split == "test"
        judged.update(pair.stem for pair in assigned if pair.split == "val")
        assert sum(pair.split == "train" for pair in assigned) + sum(pair.split == "val" for pair in assigned) == 7
    assert judged == Counter(str(place) for place in range(8) if place != 6)
