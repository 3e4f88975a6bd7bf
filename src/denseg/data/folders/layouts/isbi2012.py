# SPDX-License-Identifier: Apache-2.0
"""ISBI 2012 EM segmentation: ``train-volume.tif`` and ``train-labels.tif``, 30 pages each.

Labels hold 0 for membrane and 255 for cell. ``test-volume.tif`` has no public labels. Neighbouring pages are
neighbouring slices of one volume; the mask doctor groups them in runs.
"""

from __future__ import annotations

from pathlib import Path

from denseg.data.folders.inventory import Inventory, Pair
from denseg.data.folders.layouts.common import ClassRow, build_inventory, first_folder
from denseg.data.reading.images import probe_image
from denseg.errors import DataError

__all__ = ["find", "read"]

VOLUME, LABELS = "train-volume.tif", "train-labels.tif"
CLASSES = (ClassRow(0, "membrane", (0, 0, 0)), ClassRow(255, "cell", (255, 255, 255)))


def find(root: Path) -> Path | None:
    """Find the data set at or below a folder."""
    return first_folder(root, ("isbi2012", "ISBI2012", "data"), (VOLUME, LABELS))


def read(root: Path, base: Path) -> Inventory:
    """List the slices, and say what the labels mean.

    Args:
        root: The user's folder.
        base: What ``find`` gave.

    Returns:
        The inventory.

    Raises:
        DataError: The two files differ in their number of slices, or cannot be read.
    """
    pages, labelled = probe_image(base / VOLUME).frames, probe_image(base / LABELS).frames
    if pages != labelled:
        raise DataError(f"{base}: {VOLUME} has {pages} slices, {LABELS} has {labelled}; download them again", path=base)
    pairs = [
        Pair(f"slice_{page:02d}", base / VOLUME, base / LABELS, image_page=page, mask_page=page)
        for page in range(pages)
    ]
    label_map = {"0": "membrane", "255": "cell"}
    return build_inventory(root, "isbi2012", pairs, CLASSES, label_map=label_map)
