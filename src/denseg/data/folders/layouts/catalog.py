# SPDX-License-Identifier: Apache-2.0
"""The public layouts that denseg knows, most particular first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from denseg.data.folders.description import Description
from denseg.data.folders.inventory import Inventory
from denseg.data.folders.layouts import (
    ade20k,
    camvid,
    cell_tracking,
    cityscapes,
    coco_json,
    coco_stuff,
    isbi2012,
    pascal_context,
    pascal_voc,
)
from denseg.errors import DataError, UnknownNameError

__all__ = ["LAYOUTS", "Layout", "read_layout"]


class Layout(NamedTuple):
    """One public layout.

    Attributes:
        find: Gives the folder that holds it at or below the one the user points to, or ``None``.
        read: Gives its pairs and classes, from the user's folder and the one that ``find`` gave.
    """

    find: Callable[[Path], Path | None]
    read: Callable[[Path, Path], Inventory]


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "cityscapes": Layout(cityscapes.find, cityscapes.read),
        "ade20k": Layout(ade20k.find, ade20k.read),
        "pascal_context": Layout(pascal_context.find, pascal_context.read),
        "pascal_context_60": Layout(lambda root: None, pascal_context.read_60),
        "pascal_voc": Layout(pascal_voc.find, pascal_voc.read),
        "coco_stuff": Layout(coco_stuff.find, coco_stuff.read),
        "camvid": Layout(camvid.find, camvid.read),
        "isbi2012": Layout(isbi2012.find, isbi2012.read),
        "cell_tracking": Layout(cell_tracking.find, cell_tracking.read),
        "coco_json": Layout(coco_json.find, coco_json.read),
    }
)
_SHARED_FINDER = {"pascal_context_60": "pascal_context"}


def read_layout(root: Path, description: Description) -> Inventory | None:
    """Read a folder as the public layout that it is.

    Args:
        root: The user's folder.
        description: What the user's ``dataset.yaml`` says; goes before what the layout says.

    Returns:
        The inventory; ``None`` where it is no public layout.

    Raises:
        DataError: ``dataset.yaml`` names a layout whose files are not there.
        UnknownNameError: ``dataset.yaml`` names a layout that denseg does not know.
    """
    asked = description.layout
    if asked == "folder":
        return None
    if asked and asked not in LAYOUTS:
        raise UnknownNameError("layout", asked, [*LAYOUTS, "folder"])
    for name in [asked] if asked else LAYOUTS:
        base = LAYOUTS[_SHARED_FINDER.get(name, name)].find(root)
        if base is not None:
            inventory = LAYOUTS[name].read(root, base)
            said = {key: getattr(description, key) for key in description.model_fields_set}
            return replace(inventory, description=inventory.description.model_copy(update=said))
    if asked:
        raise DataError(f"{description.path}: says layout {asked}, and its files are not in {root}", path=root)
    return None
