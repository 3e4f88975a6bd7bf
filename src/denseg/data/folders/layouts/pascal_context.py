# SPDX-License-Identifier: Apache-2.0
"""PASCAL Context: 59 classes, or 60 with background, on the pictures of VOC 2010.

``VOC2010/{JPEGImages,SegmentationClassContext,ImageSets/SegmentationContext}`` with PNG that hold 0 for background and
1 to 59; or the original ``.mat`` files, variable ``LabelMap``, with ids 0 to 459 of which 59 are classes.

Two orders of the 59 go round: by id, which is by name (as the usual converter writes), and VOC's twenty first. Only 6
of 60 places agree, and a wrong one gives right means under wrong names. They are told apart by VOC's own masks where
those are beside, else by how common the classes are that each order makes of the pixels.
"""

from __future__ import annotations

import importlib.resources
from dataclasses import replace
from pathlib import Path

import numpy as np

from denseg.data.folders.inventory import Inventory, Pair
from denseg.data.folders.layouts.common import (
    ClassRow,
    build_inventory,
    first_folder,
    load_classes,
    pair_up,
    read_names,
)
from denseg.data.reading.masks import read_mask
from denseg.errors import DataError

__all__ = ["find", "read", "read_60"]

DEVKITS = ("VOCdevkit/VOC2010", "VOC2010")
PNG, MAT = ("SegmentationClassContext",), ("trainval", "SegmentationClassContextMat", "LabelMaps")
BACKGROUND = ClassRow(0, "background", (0, 0, 0))
COMMON = {"sky", "grass", "tree", "wall", "building", "ground", "water", "person", "road", "floor"}
LOOKED_AT = 60


def find(root: Path) -> Path | None:
    """Find the data set at or below a folder."""
    base = first_folder(root, DEVKITS, ("JPEGImages", "ImageSets/SegmentationContext"))
    base = base or first_folder(root, DEVKITS, ("JPEGImages", "trainval"))
    return base if base is not None and _masks(root, base) is not None else None


def read(root: Path, base: Path) -> Inventory:
    """List the pairs; background is no class, as in most papers.

    Args:
        root: The user's folder.
        base: What ``find`` gave.

    Returns:
        The inventory, 59 classes.
    """
    return _read(root, base, background=False)


def read_60(root: Path, base: Path) -> Inventory:
    """List the pairs; background is a class.

    Args:
        root: The user's folder.
        base: What ``find`` gave.

    Returns:
        The inventory, 60 classes.
    """
    return replace(_read(root, base, background=True), layout="pascal_context_60")


def _read(root: Path, base: Path, *, background: bool) -> Inventory:
    found = _masks(root, base)
    if found is None:
        raise DataError(f"{base}: has no masks of PASCAL Context", path=base)
    folder, suffix = found
    lists = base / "ImageSets" / "SegmentationContext"
    images, masks = (base / "JPEGImages", ".jpg"), (folder, suffix)
    lone: list[Path] = []
    pairs: list[Pair] = []
    for split in ("train", "val"):
        pairs += pair_up(read_names(lists / f"{split}.txt"), split, images, masks, lone=lone)
    if not lists.is_dir():
        pairs += pair_up(sorted(path.stem for path in folder.glob(f"*{suffix}")), None, images, masks)
    rows = load_classes("pascal_context")
    if suffix == ".png":
        order = _voc_first(rows) if _is_voc_first(base, pairs, rows) else list(rows)
        values = {str(place + 1): place for place in range(len(order))}
    else:
        order = list(rows)
        values = {str(row.value): place for place, row in enumerate(order)}
    other = "" if suffix == ".png" else "background" if background else "ignore"
    if background:
        order = [BACKGROUND, *order]
        values = {"0": 0} | {key: place + 1 for key, place in values.items()}
    label_map: dict[str, int | str] = {"0": "ignore", **values}
    return build_inventory(root, "pascal_context", pairs, order, lone=lone, label_map=label_map, other=other)


def _masks(root: Path, base: Path) -> tuple[Path, str] | None:
    for names, suffix in ((PNG, ".png"), (MAT, ".mat")):
        for folder in (parent / name for parent in (base, root) for name in names):
            if folder.is_dir() and next(folder.glob(f"*{suffix}"), None) is not None:
                return folder, suffix
    return None


def _voc_first(rows: tuple[ClassRow, ...]) -> list[ClassRow]:
    text = importlib.resources.files("denseg.data.folders.layouts") / "tables" / "pascal_context_voc_first.txt"
    by_name = {row.name: row for row in rows}
    return [by_name[name] for name in text.read_text(encoding="utf-8").split("\n") if name]


def _is_voc_first(base: Path, pairs: list[Pair], rows: tuple[ClassRow, ...]) -> bool:
    """Tell the two orders apart, see the head of this file."""
    names = ([row.name for row in rows], [row.name for row in _voc_first(rows)])
    voc = [row.name.replace("diningtable", "table") for row in load_classes("pascal_voc")]
    votes = np.zeros(2)
    pixels = np.zeros(256)
    for pair in pairs[:: max(1, len(pairs) // LOOKED_AT)]:
        labels = read_mask(pair.mask).values
        pixels += np.bincount(labels.ravel(), minlength=256)[:256]
        own = base / "SegmentationClass" / f"{pair.stem}.png"
        if not own.is_file():
            continue
        objects = read_mask(own).values
        if objects.shape != labels.shape:
            continue
        for value in set(objects.ravel().tolist()) & set(range(1, 21)):
            inside = np.bincount(labels[objects == value].ravel(), minlength=60)
            for which in (0, 1):
                votes[which] += inside[names[which].index(voc[value]) + 1]
    if votes.max() > 0:
        return bool(votes[1] > votes[0])
    shares = [sum(pixels[place + 1] for place, name in enumerate(order) if name in COMMON) for order in names]
    return bool(shares[1] > shares[0])
