# SPDX-License-Identifier: Apache-2.0
"""Cityscapes: ``{leftImg8bit,gtFine}/{train,val}/{city}/{city}_{sequence}_{frame}_{type}.png``.

Masks hold label ids 0 to 33, of which 19 are classes; ``labelTrainIds`` files, where they were made, hold 0 to 18. The
test split has no labels. The evaluation server takes label ids: :func:`to_label_ids` maps predictions back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from denseg.data.folders.inventory import Inventory, Pair
from denseg.data.folders.layouts.common import build_inventory, first_folder, load_classes
from denseg.errors import DataError

__all__ = ["find", "read", "to_label_ids"]

IMAGE, LABELS, TRAIN_IDS = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"


def find(root: Path) -> Path | None:
    """Find the data set at or below a folder."""
    return first_folder(root, ("cityscapes", "Cityscapes"), ("leftImg8bit/train", "gtFine/train"))


def read(root: Path, base: Path) -> Inventory:
    """List the pairs, and say what the masks mean.

    Args:
        root: The user's folder.
        base: What ``find`` gave.

    Returns:
        The inventory; pictures of one city are one group.

    Raises:
        DataError: Some masks hold label ids and others train ids.
    """
    pairs, lone, kinds = [], [], set()
    for split in ("train", "val"):
        for image in sorted((base / "leftImg8bit" / split).glob(f"*/*{IMAGE}")):
            city, name = image.parent.name, image.name.removesuffix(IMAGE)
            folder = base / "gtFine" / split / city
            masks = (folder / f"{name}{end}" for end in (LABELS, TRAIN_IDS))
            mask = next((path for path in masks if path.is_file()), None)
            if mask is None:
                lone.append(image)
                continue
            kinds.add(mask.name.removeprefix(name))
            pairs.append(Pair(name, image, mask, split, group=city))
    if len(kinds) > 1:
        raise DataError(f"{base}: some pictures have {LABELS}, others only {TRAIN_IDS}; keep one kind", path=base)
    classes = load_classes("cityscapes")
    if kinds == {TRAIN_IDS}:
        return build_inventory(root, "cityscapes", pairs, classes, lone=lone, ignore_index=255)
    label_map = {str(row.value): index for index, row in enumerate(classes)}
    return build_inventory(root, "cityscapes", pairs, classes, lone=lone, label_map=label_map, other="ignore")


def to_label_ids(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Map predicted classes to the label ids that the evaluation server takes.

    Args:
        labels: 0 to 18; anything else becomes 0, unlabelled.

    Returns:
        Label ids of the same shape.
    """
    table = np.zeros(65536, np.uint8)
    for index, row in enumerate(load_classes("cityscapes")):
        table[index] = row.value
    ids: NDArray[np.uint8] = table[labels]
    return ids
