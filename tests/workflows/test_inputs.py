# SPDX-License-Identifier: Apache-2.0
"""Inputs become pictures, each once, each with a name of its own."""

from __future__ import annotations

import re

import pytest

from denseg.errors import DataError
from denseg.workflows.inputs import find_pictures


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(pictures):
    return [picture.name for picture in pictures]


def test_file_folder_and_glob(tmp_path):
    touch(tmp_path, "a/1.png", "a/2.JPG", "a/notes.txt", "a/.hidden.png", "a/deep/3.tif", "b/4.png", "b/5.webp")
    assert names(find_pictures([tmp_path / "a"])) == ["1", "2", "3"]
    assert names(find_pictures([str(tmp_path / "b" / "*.png")])) == ["4"]
    assert names(find_pictures([str(tmp_path / "**" / "*.png")])) == ["1", "4"]
    assert names(find_pictures([tmp_path / "b" / "5.webp", tmp_path / "a" / "1.png"])) == ["5", "1"]
    assert names(find_pictures([str(tmp_path / "?")])) == ["1", "2", "3", "4", "5"]


def test_each_file_once(tmp_path):
    touch(tmp_path, "1.png", "2.png")
    assert names(find_pictures([tmp_path / "2.png", tmp_path, str(tmp_path / "*.png")])) == ["2", "1"]


def test_a_file_named_by_the_user_is_tried_whatever_its_suffix(tmp_path):
    touch(tmp_path, "scan.dat")
    assert names(find_pictures([tmp_path / "scan.dat"])) == ["scan"]


def test_masks_of_a_data_folder_and_results_are_left_out(tmp_path):
    touch(tmp_path, "images/val/1.png", "masks/val/1.png", "out/1.png", "out/overlay/1.png")
    pictures = find_pictures([tmp_path], leave_out=tmp_path / "out")
    assert [picture.path for picture in pictures] == [tmp_path / "images/val/1.png"]
    touch(tmp_path, "only/labels/7.png")  # no images beside it: the user means these
    assert names(find_pictures([tmp_path / "only"])) == ["7"]


def test_equal_stems_get_longer_names(tmp_path):
    touch(tmp_path, "x/1.png", "y/1.png", "y/1.jpg", "y/2.png", "y/z/2.tif")
    assert names(find_pictures([tmp_path])) == ["x-1", "y-1-jpg", "y-1-png", "y-2", "y-z-2"]
    assert names(find_pictures([tmp_path / "x" / "1.png", tmp_path / "y" / "1.png"])) == ["x-1", "y-1"]


def test_names_differ_without_case_too(tmp_path):
    touch(tmp_path, "p/A.png", "q/a.png")
    found = names(find_pictures([tmp_path]))
    assert found == ["p-A", "q-a"]


def test_a_number_at_last(tmp_path):
    touch(tmp_path, "one/x/a.png", "two/x/a.png", "three/x-a-png-2.png")
    found = names(find_pictures([tmp_path / "one/x/a.png", tmp_path / "two/x/a.png", tmp_path / "three"]))
    assert found == ["x-a-png", "x-a-png-3", "x-a-png-2"]
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("absent.png", "there is no file or folder {root}/absent.png"),
        ("*.png", "no file matches {root}/*.png"),
        ("empty", "no picture in {root}/empty: expected files such as .png, .jpg or .tif"),
    ],
)
def test_inputs_that_are_not_there(tmp_path, item, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=f"^{re.escape(message.format(root=tmp_path))}$"):
        find_pictures([str(tmp_path / item)])


def test_no_input_at_all():
    with pytest.raises(DataError, match=r"^no picture in no input: expected files such as \.png, \.jpg or \.tif$"):
        find_pictures([])
