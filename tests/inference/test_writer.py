# SPDX-License-Identifier: Apache-2.0
"""Labels survive the file, overlays show them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from denseg.errors import OutputError
from denseg.inference.writer import overlay_pixels, to_display, write_labels, write_overlay
from denseg.types import ClassTable

CLASSES = ClassTable(("none", "red", "blue"), ((0, 0, 0), (255, 0, 0), (0, 0, 255)))


def test_labels_are_indices_with_the_classes_colours(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (7, 9)).astype(np.uint8)
    path = tmp_path / "new" / "labels.png"
    write_labels(path, labels, CLASSES)
    with Image.open(path) as picture:
        assert picture.mode == "P"
        assert (np.asarray(picture) == labels).all()
        assert (np.asarray(picture.convert("RGB")) == np.array(CLASSES.colors, np.uint8)[labels]).all()
    assert [file.name for file in path.parent.iterdir()] == ["labels.png"]


def test_many_classes_take_sixteen_bits(tmp_path):
    labels = np.arange(300).reshape(15, 20).astype(np.uint16)
    write_labels(tmp_path / "labels.png", labels, ClassTable.numbered(300, ignore_index=65535))
    with Image.open(tmp_path / "labels.png") as picture:
        assert (np.asarray(picture) == labels).all()


def test_overlay_is_half_picture_half_colour_and_black_is_no_colour():
    shown = np.full((1, 3, 3), 100, np.uint8)
    result = overlay_pixels(shown, np.array([[0, 1, 2]], np.uint8), CLASSES.colors)
    assert result.tolist() == [[[100, 100, 100], [177, 50, 50], [50, 50, 177]]]


def test_overlay_of_white_is_no_overflow():
    result = overlay_pixels(np.full((1, 1, 3), 255, np.uint8), np.zeros((1, 1), np.uint8), [(255, 255, 255)])
    assert result.tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize(
    "image",
    [
        np.arange(48, dtype=np.uint8).reshape(4, 4, 3),
        np.arange(16, dtype=np.uint8).reshape(4, 4),
        np.arange(16, dtype=np.uint16).reshape(4, 4, 1) * 4000,
        np.arange(80, dtype=np.uint8).reshape(4, 4, 5),
        np.arange(32, dtype=np.float32).reshape(4, 4, 2),
        np.full((4, 4, 3), np.nan, np.float32),
        np.full((4, 4, 1), 7, np.uint16),
    ],
)
def test_any_picture_can_be_shown(image, tmp_path):
    shown = to_display(image)
    assert shown.shape == (4, 4, 3)
    assert shown.dtype == np.uint8
    write_overlay(tmp_path / "a.png", image, np.zeros((4, 4), np.uint8), CLASSES)
    with Image.open(tmp_path / "a.png") as picture:
        assert (np.asarray(picture) == shown).all()


def test_deep_pictures_are_stretched():
    image = np.linspace(1000, 3000, 10_000, dtype=np.float32).astype(np.uint16).reshape(100, 100, 1)
    shown = to_display(image)
    assert shown.min() == 0
    assert shown.max() == 255
    assert (np.diff(shown[:, :, 0].ravel().astype(int)) >= 0).all()
    eight = np.full((2, 2, 3), 77, np.uint8)
    assert (to_display(eight) == eight).all()


def test_a_file_in_the_way_of_the_folder(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match=r"^cannot write .*/out: a file of that name is in the way of a folder$"):
        write_labels(tmp_path / "out" / "a.png", np.zeros((2, 2), np.uint8), CLASSES)
