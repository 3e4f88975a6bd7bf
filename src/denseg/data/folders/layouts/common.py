# SPDX-License-Identifier: Apache-2.0
"""What the readers of public layouts share: class tables, lists of names, and the pairs that follow from them."""

from __future__ import annotations

import csv
import importlib.resources
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from denseg.data.folders.description import ClassDescription, Description
from denseg.data.folders.inventory import Inventory, Pair, sort_pairs, split_names
from denseg.errors import DataError

__all__ = ["ClassRow", "build_inventory", "first_folder", "load_classes", "pair_up", "read_names"]


class ClassRow(NamedTuple):
    """One line of a class table.

    Attributes:
        value: What the masks hold; the place in the table where it is not said.
        name: The class.
        color: Red, green, blue.
    """

    value: int
    name: str
    color: tuple[int, int, int]


def load_classes(table: str) -> tuple[ClassRow, ...]:
    """Read a class table of this package.

    Args:
        table: Its name, without suffix.

    Returns:
        The classes in index order.
    """
    tables = importlib.resources.files("denseg.data.folders.layouts") / "tables"
    text = (tables / f"{table}.csv").read_text(encoding="utf-8")
    return tuple(
        ClassRow(int(row["value"] or place), row["name"], (int(row["red"]), int(row["green"]), int(row["blue"])))
        for place, row in enumerate(csv.DictReader(text.splitlines()))
    )


def first_folder(root: Path, candidates: Sequence[str], needed: Sequence[str]) -> Path | None:
    """Find the folder at or below ``root`` that holds all of some entries.

    Args:
        root: Where the user points.
        candidates: Relative folders that the archive unpacks to; ``root`` itself is tried first.
        needed: Relative entries that must be there.

    Returns:
        The folder, or ``None``.
    """
    for base in (root, *(root / name for name in candidates)):
        if all((base / entry).exists() for entry in needed):
            return base
    return None


def read_names(path: Path) -> list[str]:
    """Read a list of names: the first word of each line, without folder.

    Args:
        path: The list.

    Returns:
        The names; none where there is no such file.

    Raises:
        DataError: The list cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list {path}: {error}", path=path) from error
    return [line.split()[0].rpartition("/")[2] for line in lines if line.strip()]


def pair_up(
    names: Iterable[str],
    split: str | None,
    image: tuple[Path, str],
    mask: tuple[Path, str],
    *,
    lone: list[Path] | None = None,
) -> list[Pair]:
    """Make a pair of each listed name.

    Args:
        names: The names.
        split: Their split.
        image: Folder of the pictures, and what follows the name there.
        mask: Folder of the masks, and what follows the name there.
        lone: Takes the pictures and masks that a listed name should have and has not.

    Returns:
        Pairs of which both files exist.
    """
    pairs = []
    for name in names:
        files = image[0] / f"{name}{image[1]}", mask[0] / f"{name}{mask[1]}"
        missing = [path for path in files if not path.is_file()]
        if not missing:
            pairs.append(Pair(name, *files, split))
        elif lone is not None:
            lone += [path for path in files if path.is_file()]
    return pairs


def build_inventory(
    root: Path,
    layout: str,
    pairs: Iterable[Pair],
    classes: Sequence[ClassRow],
    *,
    lone: Sequence[Path] = (),
    **described: Any,
) -> Inventory:
    """Put an inventory together.

    Args:
        root: Where the user points.
        layout: Name of the layout.
        pairs: The pairs.
        classes: The class table.
        lone: Pictures and masks without a partner.
        **described: Further fields of :class:`~denseg.data.folders.description.Description`.

    Returns:
        The inventory.
    """
    description = Description(
        classes=tuple(ClassDescription(name=row.name, color=row.color, value=None) for row in classes),
        source=layout,
        **described,
    )
    ordered = sort_pairs(pairs)
    masks = tuple(path for path in lone if path.suffix in {".png", ".mat"})
    images = tuple(path for path in lone if path not in masks)
    return Inventory(root, layout, ordered, images, masks, splits=split_names(ordered), description=description)
