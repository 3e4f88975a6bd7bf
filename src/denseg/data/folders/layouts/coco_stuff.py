# SPDX-License-Identifier: Apache-2.0
"""COCO-Stuff 10K: ``images/*.jpg``, ``annotations/*.mat`` (variable ``S``), ``imageLists/{train,test}.txt``.

Version 1.1 holds 0 for unlabelled, COCO's ids 1 to 91 for 80 things (11 ids are unused), 92 to 182 for 91 stuff
classes. Version 1.0 holds 1 for unlabelled, 2 to 81 and 82 to 172. Which one it is, the values say.
"""

from __future__ import annotations

from pathlib import Path

from denseg.data.folders.inventory import Inventory
from denseg.data.folders.layouts.common import build_inventory, first_folder, load_classes, pair_up, read_names
from denseg.data.reading.masks import read_mask
from denseg.errors import DataError

__all__ = ["find", "read"]

SPLITS = {"train": "train", "test": "test"}
LOOKED_AT = 40  # masks, to tell the version


def find(root: Path) -> Path | None:
    """Find the data set at or below a folder."""
    needed = ("images", "annotations", "imageLists")
    base = first_folder(root, ("cocostuff-10k-v1.1", "cocostuff-10k-v1.0", "dataset", "cocostuff10k"), needed)
    return base if base is not None and next((base / "annotations").glob("*.mat"), None) is not None else None


def read(root: Path, base: Path) -> Inventory:
    """List the pairs, and say what the masks mean.

    Args:
        root: The user's folder.
        base: What ``find`` gave.

    Returns:
        The inventory.

    Raises:
        DataError: No listed picture has its mask, or the masks do not tell the version.
    """
    lone: list[Path] = []
    pairs = []
    for name, split in SPLITS.items():
        listed = read_names(base / "imageLists" / f"{name}.txt")
        pairs += pair_up(listed, split, (base / "images", ".jpg"), (base / "annotations", ".mat"), lone=lone)
    if not pairs:
        raise DataError(f"{base}: imageLists/ names no picture that is there with its mask", path=base)
    classes = load_classes("coco_stuff")
    if _is_first_version([pair.mask for pair in pairs]):
        label_map = {"1": "ignore"} | {str(index + 2): index for index in range(len(classes))}
    else:
        label_map = {"0": "ignore"} | {str(row.value): index for index, row in enumerate(classes)}
    return build_inventory(root, "coco_stuff", pairs, classes, lone=lone, label_map=label_map)


def _is_first_version(masks: list[Path]) -> bool:
    """Tell 1.0 from 1.1: only 1.1 has 0 or values above 172; only 1.0 may hold 12, 26 and other ids unused in 1.1."""
    used = {row.value for row in load_classes("coco_stuff")}
    unused = set(range(1, 92)) - used
    step = max(1, len(masks) // LOOKED_AT)
    seen: set[int] = set()
    for path in masks[::step]:
        seen |= set(map(int, set(read_mask(path).values.ravel().tolist())))
    newer, older = bool(seen & {0, *range(173, 183)}), bool(seen & unused)
    if newer and older:
        raise DataError(
            f"{masks[0].parent}: masks hold values of COCO-Stuff 1.0 and of 1.1; keep one version", path=masks[0].parent
        )
    return older or not newer
