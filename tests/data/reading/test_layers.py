# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from denseg.data.doctor.doctor import Examination, examine
from denseg.data.encoding import MaskEncoding
from denseg.data.folders.folder import discover
from denseg.data.folders.split import split_rows
from denseg.data.reading.masks import read_mask
from denseg.data.samples.pairs import read_pair_labels
from denseg.errors import DataError

SIZE = (24, 30)


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if values.dtype == np.float32:
        tifffile.imwrite(path, values)
    else:
        Image.fromarray(values).save(path)


def area(top: int, bottom: int, left: int, right: int, value: int = 255) -> np.ndarray:
    values = np.zeros(SIZE, np.uint8)
    values[top:bottom, left:right] = value
    return values


def folder(root: Path, pattern: str, *, stems: tuple[str, ...] = ("a_1", "b", "c", "d")) -> Path:
    """Pictures with masks of cars, roads and (in one only) trees; cars lie on roads."""
    for place, stem in enumerate(stems):
        rng = np.random.default_rng(place)
        save(root / f"images/{stem}.png", rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
        save(root / pattern.format(stem=stem, name="road"), area(4, 20, 0, 30))
        save(root / pattern.format(stem=stem, name="car"), area(10, 14, 5 + place, 12))
        if place == 1:
            save(root / pattern.format(stem=stem, name="tall tree"), area(0, 3, 0, 9))
    return root


def labels_of(examination: Examination, stem: str) -> np.ndarray:
    (pair,) = [pair for pair in examination.pairs if pair.stem == stem]
    return read_pair_labels(pair, examination.encoding)


def finding(examination: Examination, code: str) -> Any:
    (found,) = [found for found in examination.findings if found.code == code]
    return found


@pytest.mark.parametrize("pattern", ["masks/{name}/{stem}.png", "masks/{stem}_{name}.png"])
def test_one_file_per_class_is_recognised(tmp_path: Path, pattern: str) -> None:
    examination = examine(folder(tmp_path, pattern))
    assert examination.ok
    assert examination.classes.names == ("background", "car", "road", "tall tree")
    expected = area(4, 20, 0, 30, 2)
    expected[0:3, 0:9] = 3
    np.testing.assert_array_equal(labels_of(examination, "b"), expected)
    overlap = finding(examination, "overlapping-classes")
    assert overlap.severity == "warning"
    assert overlap.message == "classes overlap in 3.1 % of the pixels"  # 4 x (7 + 6 + 5 + 4) of 4 x 720
    assert overlap.action == (
        "the later one lies on top, in the order car, road, tall tree; order the classes in dataset.yaml"
    )
    assert finding(examination, "mask-encoding").message == (
        "each bit of the masks is a class, 3 in all; no bit is background"
    )


def test_dataset_yaml_orders_the_classes(tmp_path: Path) -> None:
    folder(tmp_path, "masks/{name}/{stem}.png")
    (tmp_path / "dataset.yaml").write_text("classes: [road, car, tall tree]\n")
    examination = examine(tmp_path)
    assert examination.classes.names == ("background", "road", "car", "tall tree")
    expected = area(4, 20, 0, 30, 1)
    expected[10:14, 5:12] = 2
    np.testing.assert_array_equal(labels_of(examination, "a_1"), expected)
    (tmp_path / "dataset.yaml").write_text("classes: [road, car]\n")
    message = "masks of class 'tall tree', which dataset.yaml does not name; add it to classes"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        examine(tmp_path)


def test_every_file_counts_for_the_manifest(tmp_path: Path) -> None:
    pairs = discover(folder(tmp_path, "masks/{name}/{stem}.png")).pairs
    before = split_rows(pairs, tmp_path)
    save(tmp_path / "masks/road/c.png", area(0, 24, 0, 30))
    after = split_rows(pairs, tmp_path)
    assert [one.stem for one, other in zip(before, after, strict=True) if one.sha256 != other.sha256] == ["c"]


def test_pictures_without_any_class_and_masks_without_picture_are_told(tmp_path: Path) -> None:
    folder(tmp_path, "masks/{name}/{stem}.png")
    save(tmp_path / "images/lone.png", np.zeros((*SIZE, 3), np.uint8))
    save(tmp_path / "masks/car/ghost.png", area(0, 1, 0, 1))
    inventory = discover(tmp_path)
    assert [path.name for path in inventory.unpaired_images] == ["lone.png"]
    assert [path.name for path in inventory.unpaired_masks] == ["ghost.png"]
    assert len(inventory.pairs) == 4


def test_masks_of_other_size_are_told(tmp_path: Path) -> None:
    folder(tmp_path, "masks/{name}/{stem}.png")
    save(tmp_path / "masks/road/c.png", np.zeros((24, 29), np.uint8))
    examination = examine(tmp_path)
    path = tmp_path / "masks/road/c.png"
    message = f"{path}: the mask is 29 x 24 pixels, that of another class 30 x 24; make them equal"
    assert finding(examination, "mask-unreadable").message == f"1 mask cannot be read: {message}"


def test_numbers_of_objects_and_marks_are_no_classes(tmp_path: Path) -> None:
    for stem in ("a", "b"):
        save(tmp_path / f"images/{stem}.png", np.zeros((*SIZE, 3), np.uint8))
        for number in (1, 2):
            save(tmp_path / f"masks/{stem}_{number}.png", area(0, 3, 0, 3))
    assert discover(tmp_path).pairs == ()


def test_bit_planes_are_read_as_dataset_yaml_says(tmp_path: Path) -> None:
    for place in range(4):
        save(tmp_path / f"images/{place}x.png", np.random.default_rng(place).integers(0, 255, (*SIZE, 3), np.uint8))
        save(tmp_path / f"masks/{place}x.png", area(0, 9, 0, 9, 1) | area(5, 12, 5, 12, 4))
    (tmp_path / "dataset.yaml").write_text("bits: true\nclasses: [water, wall, roof]\n")
    examination = examine(tmp_path)
    assert examination.ok
    expected = area(0, 9, 0, 9, 1)
    expected[5:12, 5:12] = 3
    np.testing.assert_array_equal(labels_of(examination, "0x"), expected)
    np.testing.assert_array_equal(examination.class_counts(), 4 * np.bincount(expected.ravel(), minlength=4))
    (tmp_path / "dataset.yaml").write_text("bits: true\nclasses: [water, wall]\n")
    beyond = finding(examine(tmp_path), "values-beyond-classes")
    assert beyond.message == "masks of bits hold 4 and 5, which sets bits beyond the 2 classes"


@pytest.mark.parametrize("kind", ["grey", "float"])
def test_a_threshold_divides_grades(tmp_path: Path, kind: str) -> None:
    grades = np.linspace(0, 1, SIZE[0] * SIZE[1]).reshape(SIZE)
    for place in range(4):
        save(tmp_path / f"images/{place}x.png", np.random.default_rng(place).integers(0, 255, (*SIZE, 3), np.uint8))
        if kind == "grey":
            save(tmp_path / f"masks/{place}x.png", np.rint(grades * 255).astype(np.uint8))
        else:
            save(tmp_path / f"masks/{place}x.tif", grades.astype(np.float32))
    threshold = 0.25 if kind == "float" else 64
    (tmp_path / "dataset.yaml").write_text(f"threshold: {threshold}\nclasses: [vessel]\n")
    examination = examine(tmp_path)
    assert examination.ok
    assert examination.classes.names == ("background", "vessel")
    expected = (grades * (255 if kind == "grey" else 1)).round(12 if kind == "float" else 0) >= threshold
    np.testing.assert_array_equal(labels_of(examination, "0x"), expected)
    counted = examination.class_counts()
    assert abs(int(counted[1]) - 4 * int(expected.sum())) <= 4
    told = finding(examination, "mask-encoding").message
    assert told == f"masks hold grades: from {threshold:g} on they are read as 'vessel', below as 'background'"
    assert MaskEncoding.from_json(examination.encoding.to_json()) == examination.encoding


def test_a_threshold_ignores_nan_and_refuses_colours(tmp_path: Path) -> None:
    encoding = MaskEncoding("index", 2, threshold=0.5)
    save(tmp_path / "a.tif", np.array([[0.4, np.nan], [0.5, 0.9]], np.float32))
    np.testing.assert_array_equal(encoding.decode(read_mask(tmp_path / "a.tif")), [[0, 255], [1, 1]])
    save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (4, 4, 3), dtype=np.uint8))
    message = "m: the mask holds colours, and a threshold needs one grade per pixel"
    with pytest.raises(DataError, match=f"^{message}$"):
        encoding.decode(read_mask(tmp_path / "a.png"), "m")
    assert (encoding.lookup(1), encoding.lookup(0), encoding.lookup((1, 2, 3))) == (1, 0, None)
    (tmp_path / "masks").mkdir()


def test_a_threshold_takes_two_classes(tmp_path: Path) -> None:
    save(tmp_path / "images/a.png", np.zeros((*SIZE, 3), np.uint8))
    save(tmp_path / "masks/a.png", area(0, 5, 0, 5))
    (tmp_path / "dataset.yaml").write_text("threshold: 9\nclasses: [a, b, c]\n")
    assert finding(examine(tmp_path), "values-beyond-classes").message == (
        "`threshold` makes 2 classes, and dataset.yaml names 3"
    )
