# SPDX-License-Identifier: Apache-2.0
"""COCO-style annotations: ``annotations/*_{train,val}*.json``, or ``_annotations.coco.json`` beside the pictures.

Outlines (polygons and run lengths) are drawn when a mask is read; 0 is background, the categories follow in the order
of their ids, regions marked as crowds carry no label.
"""

from __future__ import annotations

import re
from pathlib import Path

from denseg.data.folders.inventory import Inventory, Pair
from denseg.data.folders.layouts.common import ClassRow, build_inventory
from denseg.data.reading.annotations import load_annotations
from denseg.errors import DataError
from denseg.types import distinct_colors

__all__ = ["find", "read"]

SPLITS = (("train", "train"), ("val", "val"), ("valid", "val"), ("test", "test"))
KEYS = (b'"annotations"', b'"images"', b'"categories"', b'"info"', b'"licenses"')


def find(root: Path) -> Path | None:
    """Find annotation files at or below a folder; its own masks go before them."""
    if any((root / name).is_dir() for name in ("masks", "Masks")):
        return None
    return root if _files(root) else None


def read(root: Path, base: Path) -> Inventory:
    """List the annotated pictures.

    Args:
        root: The user's folder.
        base: What ``find`` gave.

    Returns:
        The inventory.

    Raises:
        DataError: The files differ in their categories, or cannot be read.
    """
    pairs, lone, categories = [], [], None
    for path in _files(base):
        annotations = load_annotations(path)
        if categories is not None and categories != annotations.categories:
            raise DataError(f"{path}: has other categories than the other annotation files of {base}", path=path)
        categories = annotations.categories
        split = _split(path, base)
        for image_id, image in annotations.images.items():
            name = str(image["file_name"])
            file = _picture(path, base, name)
            if file is None:
                continue
            if annotations.objects.get(image_id):
                pairs.append(Pair(Path(name).stem, file, path, split, mask_page=image_id))
            else:
                lone.append(file)
    listed = categories or ()
    colors = distinct_colors(len(listed) + 1)
    rows = [ClassRow(0, "background", (0, 0, 0))]
    rows += [ClassRow(place + 1, name, colors[place + 1]) for place, (_, name) in enumerate(listed)]
    ignore = 255 if len(listed) < 255 else 65535
    return build_inventory(root, "coco_json", _unique(pairs), rows, lone=lone, ignore_index=ignore)


def _files(root: Path) -> list[Path]:
    found = []
    for folder in (root, root / "annotations", *(root / name for name, _ in SPLITS)):
        if not folder.is_dir():
            continue
        for path in sorted(folder.glob("*.json")):
            with path.open("rb") as file:
                start, size = file.read(4096), path.stat().st_size
                file.seek(max(0, size - 4096))
                known = sum(key in start + file.read() for key in KEYS)
            if known >= 2 and not re.search(r"captions|keypoints|panoptic", path.name):
                found.append(path)
    return found


def _split(path: Path, base: Path) -> str | None:
    words = re.split(r"[^a-z]+", f"{path.parent.relative_to(base).as_posix()} {path.stem}".lower())
    return next((split for word, split in SPLITS if word in words), None)


def _picture(path: Path, base: Path, name: str) -> Path | None:
    """Find a picture beside its annotation file, or where COCO keeps it; never outside of the data folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return None
    year = re.search(r"(train|val|test)\d{4}", path.stem)
    folders = [path.parent, base, base / "images"]
    folders += [base / "images" / year[0], base / year[0]] if year else []
    folders += [base / word for word, _ in SPLITS] + [base / "images" / word for word, _ in SPLITS]
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _unique(pairs: list[Pair]) -> list[Pair]:
    """Give pictures of one name in several splits different stems."""
    stems = [pair.stem for pair in pairs]
    if len(set(stems)) == len(stems):
        return pairs
    return [
        Pair(
            f"{pair.split or 'image'}-{pair.mask_page}-{pair.stem}",
            pair.image,
            pair.mask,
            pair.split,
            0,
            pair.mask_page,
        )
        if stems.count(pair.stem) > 1
        else pair
        for pair in pairs
    ]
