# SPDX-License-Identifier: Apache-2.0
"""Stored values become labels by the table, and by nothing else."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from denseg.data.encoding import MaskEncoding
from denseg.data.reading.masks import RawMask
from denseg.data.reading.stored import Header
from denseg.errors import DataError

HEADER = Header(1, 1, 1, "uint8", "grey", "L", "PNG")


def raw(values: object, kind: str = "index", dtype: type = np.uint8, palette: object = None) -> RawMask:
    colors = None if palette is None else np.asarray(palette, np.uint8)
    return RawMask(np.asarray(values, dtype), kind, colors, HEADER)


INDEX = MaskEncoding("index", 2, 255, values=((0, 0), (7, 1), (9, 255)))
COLOR = MaskEncoding("color", 2, 255, colors=(((0, 0, 0), 0), ((10, 20, 30), 1), ((200, 0, 0), 255)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint32, np.int64])
def test_numbers(dtype: type) -> None:
    labels = INDEX.decode(raw([[0, 7], [9, 0]], dtype=dtype))
    np.testing.assert_array_equal(labels, [[0, 1], [255, 0]])
    assert labels.dtype == np.uint8


def test_colours() -> None:
    labels = COLOR.decode(raw([[[0, 0, 0], [10, 20, 30]], [[200, 0, 0], [0, 0, 0]]], "color"))
    np.testing.assert_array_equal(labels, [[0, 1], [255, 0]])


def test_palette_by_index_and_by_colour() -> None:
    mask = raw([[0, 1], [2, 0]], "palette", palette=[(0, 0, 0), (200, 0, 0), (10, 20, 30)])
    np.testing.assert_array_equal(COLOR.decode(mask), [[0, 255], [1, 0]])
    np.testing.assert_array_equal(MaskEncoding.identity(3).decode(mask), [[0, 1], [2, 0]])


def test_grey_among_colours() -> None:
    encoding = MaskEncoding("color", 2, 255, colors=(((0, 0, 0), 0), ((255, 255, 255), 1)))
    np.testing.assert_array_equal(encoding.decode(raw([[0, 255]])), [[0, 1]])
    with pytest.raises(DataError):
        encoding.decode(raw([[0, 300]], dtype=np.uint16))


def test_negative_and_large_numbers() -> None:
    encoding = MaskEncoding("index", 2, 255, values=((-1, 255), (70000, 1), (0, 0)))
    np.testing.assert_array_equal(encoding.decode(raw([[-1, 70000, 0]], dtype=np.int32)), [[255, 1, 0]])


def test_every_other_value_can_be_one_class() -> None:
    encoding = MaskEncoding("index", 2, 255, values=((0, 0),), other=1)
    np.testing.assert_array_equal(encoding.decode(raw([[0, 3, 60000]], dtype=np.uint16)), [[0, 1, 1]])


def test_tolerance_takes_the_nearest() -> None:
    encoding = MaskEncoding("index", 2, 255, values=((0, 0), (255, 1)), tolerance=127)
    np.testing.assert_array_equal(encoding.decode(raw([[0, 5, 120, 130, 250]])), [[0, 0, 0, 1, 1]])
    encoding = MaskEncoding("index", 2, 255, values=((0, 0), (255, 1)), tolerance=10)
    with pytest.raises(DataError):
        encoding.decode(raw([[100]]))
    near = MaskEncoding("color", 2, 255, colors=COLOR.colors, tolerance=12)
    np.testing.assert_array_equal(near.decode(raw([[[3, 2, 1], [12, 28, 30]]], "color")), [[0, 1]])


MESSAGES = [
    (INDEX, raw([[0, 3], [4, 4]]), "m.png: 3 pixels hold 3, 4, which is no class of this data set; "),
    (INDEX, raw([[[1, 2, 3]]], "color"), "m.png: the mask holds colours, the other masks hold numbers; "),
    (COLOR, raw([[[1, 2, 3]]], "color"), "m.png: 1 pixels hold (1, 2, 3), which is no class of this data set; "),
    (
        COLOR,
        raw([[1]], "palette", palette=[(0, 0, 0), (9, 9, 9)]),
        "m.png: 1 pixels hold (9, 9, 9), which is no class of this data set; ",
    ),
    (
        MaskEncoding.identity(1),
        raw([list(range(9))]),
        "m.png: 8 pixels hold 1, 2, 3, 4, 5 and 3 more, which is no class of this data set; ",
    ),
    (INDEX, raw([[0.5]], "float", np.float32), "m.png: the mask holds numbers that are not whole; "),
]
REMEDIES = {
    "set": "correct the mask, or name the value under `label_map` in dataset.yaml",
    "numbers": "save it like the others",
    "whole": "save it as an index PNG",
}


@pytest.mark.parametrize(("encoding", "mask", "message"), MESSAGES)
def test_values_without_a_meaning_are_errors(encoding: MaskEncoding, mask: RawMask, message: str) -> None:
    with pytest.raises(DataError) as error:
        encoding.decode(mask, "m.png")
    remedy = REMEDIES[message.rstrip("; ").rpartition(" ")[2]]
    assert str(error.value) == message + remedy


def test_many_classes_take_16_bits() -> None:
    assert MaskEncoding.identity(256, ignore_index=65535).decode(raw([[0, 255]])).dtype == np.uint16
    assert MaskEncoding.identity(255).decode(raw([[0, 255]])).dtype == np.uint8


def test_decode_gives_a_new_array() -> None:
    mask = raw([[0, 7]])
    labels = INDEX.decode(mask)
    labels[:] = 5
    np.testing.assert_array_equal(mask.values, [[0, 7]])


def test_lookup() -> None:
    assert INDEX.lookup(7) == 1
    assert INDEX.lookup(8) is None
    assert COLOR.lookup((10, 20, 30)) == 1
    np.testing.assert_array_equal(INDEX.lookup_all(np.asarray([0, 7, 8, 9])), [0, 1, -1, 255])


TABLES = st.dictionaries(st.integers(-(2**31), 2**31 - 1), st.integers(0, 9), min_size=1, max_size=20)


@given(TABLES, st.none() | st.integers(0, 9), st.data())
def test_agrees_with_a_plain_dictionary(table: dict[int, int], other: int | None, data: st.DataObject) -> None:
    encoding = MaskEncoding("index", 10, 255, values=tuple(table.items()), other=other)
    known = st.sampled_from(sorted(table))
    values = data.draw(st.lists(known if other is None else known | st.integers(-100, 100), min_size=1, max_size=30))
    expected = [table.get(value, other) for value in values]
    np.testing.assert_array_equal(encoding.decode(raw([values], dtype=np.int64)), [expected])
    again = MaskEncoding.from_json(json.loads(json.dumps(encoding.to_json())))
    assert again == encoding
    assert hash(again) == hash(encoding)
    assert copy.deepcopy(encoding) == encoding


def test_colours_survive_json() -> None:
    assert MaskEncoding.from_json(json.loads(json.dumps(COLOR.to_json()))) == COLOR
