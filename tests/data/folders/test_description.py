# SPDX-License-Identifier: Apache-2.0
"""``dataset.yaml`` is read strictly, and its usual spellings are all taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from denseg.data.folders.description import Description, parse_color, read_description
from denseg.errors import DataError


def read(folder: Path, text: str) -> Description:
    (folder / "dataset.yaml").write_text(text)
    return read_description(folder)


def test_no_file_and_empty_file(tmp_path: Path) -> None:
    assert read_description(tmp_path) == Description()
    assert read(tmp_path, "") == Description(path=tmp_path / "dataset.yaml")


SPELLINGS = [
    "classes: [sky, 7, true]",
    "names: [sky, 7, true]",
    "classes:\n- {name: sky}\n- 7\n- name: 'True'",
]


@pytest.mark.parametrize("text", SPELLINGS)
def test_lists_of_classes(tmp_path: Path, text: str) -> None:
    assert [described.name for described in read(tmp_path, text).classes] == ["sky", "7", "True"]


def test_classes_by_number(tmp_path: Path) -> None:
    description = read(tmp_path, "classes: {8: {name: road, color: [1, 2, 3]}, 7: sky}")
    assert [(c.name, c.value, c.color) for c in description.classes] == [("sky", 7, None), ("road", 8, (1, 2, 3))]


def test_everything_else(tmp_path: Path) -> None:
    text = (
        "name: Roads\nignore_index: 9\ninstances: true\ngroup: '^(.)'\nclasses: [sky, road]\n"
        "label_map: {0: sky, '#ff0000': road, '1,2,3': ignore, [4, 5, 6]: 1}\nsplit: {train: [a], val: list.txt}"
    )
    description = read(tmp_path, text.replace("[4, 5, 6]", "'4,5,6'"))
    assert description.name == "Roads"
    assert description.ignore_index == 9
    assert description.instances
    assert description.label_map == {"0": "sky", "#ff0000": "road", "1,2,3": "ignore", "4,5,6": 1}
    assert description.split == {"train": ("a",), "val": "list.txt"}
    assert [description.label_of(label, key) for key, label in description.label_map.items()] == [0, 1, None, 1]


FAULTS = {
    "a: b: c": "not readable as YAML at line 1, column 5: mapping values are not allowed here",
    "- a": "must hold keys and values, got a list",
    "class: [a]": "no key named class. Did you mean classes?",
    "zzz: 1": (
        "no key named zzz. Known: name, classes, ignore_index, label_map, instances, bits, threshold, split, group,"
        " other, neighbours, windows, layout."
    ),
    "classes: [{name: a, colour: [0, 0, 0]}]": "no key named classes.0.colour. Did you mean color?",
    "classes: [a, a]": "the class 'a' is named twice",
    "classes: {a: 0}": "classes as a mapping needs numbers as keys, for example {0: background, 1: cell}",
    "classes: [{name: a, color: [0, 0, 300]}]": (
        "classes.0.color: a colour is [red, green, blue] in 0..255 or '#rrggbb', got [0, 0, 300]"
    ),
    "classes: [road]\nlabel_map: {7: raod}": ("label_map: 7 points to 'raod', which is no class. Did you mean 'road'?"),
    "classes: [road]\nlabel_map: {7: 3}": "label_map: 7 points to 3, which is no class.",
    "group: '^a'": "group needs a part in round brackets that names the group, for example '^(.+)_'",
    "group: '('": "group is not a regular expression: missing ), unterminated subpattern at position 0",
    "ignore_index: many": (
        "ignore_index: input should be a valid integer, unable to parse string as an integer, got 'many'"
    ),
    "split: {dev: [a]}": "split.dev.[key]: input should be 'train', 'val' or 'test', got 'dev'",
}


@pytest.mark.parametrize("text", FAULTS)
def test_faults(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, text)
    path = tmp_path / "dataset.yaml"
    assert str(error.value) == f"{path}: " + FAULTS[text]
    assert error.value.path == path


def test_colours() -> None:
    assert parse_color([1, 2, 3]) == parse_color("1,2,3") == parse_color("1, 2, 3") == (1, 2, 3)
    assert parse_color("#0a0B0c") == (10, 11, 12)
    with pytest.raises(ValueError, match="a colour is"):
        parse_color("red")
