# SPDX-License-Identifier: Apache-2.0
"""Cell Tracking Challenge, 2-D sets such as PhC-C2DH-U373 and DIC-C2DH-HeLa.

``{01,02}/t###.tif`` with ``{01,02}_GT/SEG/man_seg###.tif`` for some of the frames, silver truth in ``_ST``. Masks hold
numbers of cells in 16 bits, 0 is background; every cell is one class here. Frames without a mask are left out: the
challenge labels only some.
"""

from __future__ import annotations

import re
from pathlib import Path

from denseg.data.folders.inventory import Inventory, Pair
from denseg.data.folders.layouts.common import ClassRow, build_inventory

__all__ = ["find", "read"]

CLASSES = (ClassRow(0, "background", (0, 0, 0)), ClassRow(1, "cell", (0, 192, 128)))
TRUTHS = ("GT", "ST")  # gold before silver


def find(root: Path) -> Path | None:
    """Find the data set at or one below a folder."""
    if not root.is_dir():
        return None
    for base in (root, *sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))):
        if any((base / f"01_{truth}" / "SEG").is_dir() for truth in TRUTHS) and (base / "01").is_dir():
            return base
    return None


def read(root: Path, base: Path) -> Inventory:
    """List the labelled frames.

    Args:
        root: The user's folder.
        base: What ``find`` gave.

    Returns:
        The inventory; frames of one sequence are one group.
    """
    pairs, lone = [], []
    for sequence in sorted(path.name for path in base.iterdir() if re.fullmatch(r"\d\d", path.name) and path.is_dir()):
        seen = set()
        for truth in TRUTHS:
            for mask in sorted((base / f"{sequence}_{truth}" / "SEG").glob("man_seg*.tif")):
                number = re.fullmatch(r"man_seg_?(\d+)", mask.stem)
                if number is None or number[1] in seen:
                    continue
                seen.add(number[1])
                image = base / sequence / f"t{number[1]}.tif"
                if image.is_file():
                    pairs.append(Pair(f"{sequence}_t{number[1]}", image, mask, group=sequence))
                else:
                    lone.append(mask)
    inventory = build_inventory(root, "cell_tracking", pairs, CLASSES, instances=True)
    return Inventory(
        root, inventory.layout, inventory.pairs, (), tuple(lone), splits=(), description=inventory.description
    )
