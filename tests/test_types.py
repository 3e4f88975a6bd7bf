# SPDX-License-Identifier: Apache-2.0
"""The shared values."""

from __future__ import annotations

import pytest

from denseg.errors import UsageError
from denseg.types import ClassTable, FeatureSpec, Geometry, ModelSpec, distinct_colors


def test_class_table_round_trip() -> None:
    table = ClassTable(("road", "sky"), ((1, 2, 3), (4, 5, 6)), 11)
    assert ClassTable.from_json(table.to_json()) == table
    assert len(table) == 2


@pytest.mark.parametrize(
    ("names", "colors", "ignore", "message"),
    [
        (("a",), (), 255, "a class table needs one colour per name, got 1 names and 0 colours"),
        (("a", "a"), ((0, 0, 0), (1, 1, 1)), 255, "class names must differ from each other, got ['a', 'a']"),
        (("a",), ((0, 0, 0),), 0, "ignore_index 0 is also class 'a'; use a value outside 0..0"),
    ],
)
def test_class_table_errors(names: tuple[str, ...], colors: tuple[object, ...], ignore: int, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        ClassTable(names, colors, ignore)  # type: ignore[arg-type]
    assert str(caught.value) == message


@pytest.mark.parametrize(("count", "ignore"), [(3, 255), (255, 255), (256, 65535), (300, 65535)])
def test_numbered_classes_never_swallow_the_ignore_index(count: int, ignore: int) -> None:
    table = ClassTable.numbered(count)
    assert table.names[-1] == f"class_{count - 1}"
    assert table.ignore_index == ignore
    assert len(set(table.colors[:256])) == min(count, 256)


def test_colors_are_pascal_vocs() -> None:
    # From the definition of PASCAL VOC's development kit: background, aeroplane, bicycle, bird, boat, bottle.
    assert distinct_colors(6) == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128))
    assert len(set(distinct_colors(256))) == 256


def test_small_values() -> None:
    assert FeatureSpec(64, 4).stride == 4
    assert Geometry().margin == 0
    assert ModelSpec("unet", {"num_classes": 2}).arguments["num_classes"] == 2
