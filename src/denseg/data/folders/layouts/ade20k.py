# SPDX-License-Identifier: Apache-2.0
"""ADE20K SceneParse150: ``ADEChallengeData2016/{images,annotations}/{training,validation}``.

Masks hold 0 for "other", which is no class, and 1 to 150; the classes are 0 to 149 here.
"""

from __future__ import annotations

from pathlib import Path

from denseg.data.folders.inventory import Inventory
from denseg.data.folders.layouts.common import build_inventory, first_folder, load_classes, pair_up

__all__ = ["find", "read"]

SPLITS = {"training": "train", "validation": "val"}


def find(root: Path) -> Path | None:
    """Find the data set at or below a folder."""
    needed = ("images/training", "annotations/training")
    base = first_folder(root, ("ADEChallengeData2016",), needed)
    if base is None or next((base / "annotations" / "training").glob("ADE_train_*.png"), None) is None:
        return None
    return base


def read(root: Path, base: Path) -> Inventory:
    """List the pairs, and say what the masks mean.

    Args:
        root: The user's folder.
        base: What ``find`` gave.

    Returns:
        The inventory.
    """
    lone: list[Path] = []
    pairs = []
    for folder, split in SPLITS.items():
        images, masks = base / "images" / folder, base / "annotations" / folder
        names = sorted({path.stem for path in images.glob("*.jpg")} | {path.stem for path in masks.glob("*.png")})
        pairs += pair_up(names, split, (images, ".jpg"), (masks, ".png"), lone=lone)
    classes = load_classes("ade20k")
    label_map = {str(row.value): index for index, row in enumerate(classes)}
    return build_inventory(root, "ade20k", pairs, classes, lone=lone, label_map=label_map, ignore_index=0)
