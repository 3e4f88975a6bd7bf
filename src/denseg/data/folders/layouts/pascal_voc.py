# SPDX-License-Identifier: Apache-2.0
"""PASCAL VOC 2012 segmentation, and with SBD the ``trainaug`` set of 10,582 pictures.

``VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation}``: palette PNG, 0 is background, 1 to 20
objects, 255 the border without label. SBD adds ``benchmark_RELEASE/dataset/{cls,train.txt,val.txt}`` (``.mat``, no
border) or, converted, ``SegmentationClassAug/*.png``. ``trainaug`` is VOC train, SBD train and SBD val without VOC val;
where VOC has a mask, VOC's is taken.
"""

from __future__ import annotations

from pathlib import Path

from denseg.data.folders.inventory import Inventory
from denseg.data.folders.layouts.common import build_inventory, first_folder, load_classes, pair_up, read_names

__all__ = ["find", "read"]

DEVKITS = ("VOCdevkit/VOC2012", "VOC2012", "VOCtrainval_11-May-2012/VOCdevkit/VOC2012", "TrainVal/VOCdevkit/VOC2012")
SBD = ("benchmark_RELEASE/dataset", "SBD/dataset", "sbd", "SBD")


def find(root: Path) -> Path | None:
    """Find the data set at or below a folder."""
    needed = ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")
    return first_folder(root, DEVKITS, needed)


def read(root: Path, base: Path) -> Inventory:
    """List the pairs, and say what the masks mean.

    Args:
        root: The user's folder.
        base: What ``find`` gave.

    Returns:
        The inventory; ``train`` is ``trainaug`` where SBD is there.
    """
    lists = base / "ImageSets" / "Segmentation"
    train, val = read_names(lists / "train.txt"), read_names(lists / "val.txt")
    test = [name for name in read_names(lists / "test.txt") if (base / "SegmentationClass" / f"{name}.png").is_file()]
    extra, source = _extra(root, base, train, val)
    lone: list[Path] = []

    image, mask = (base / "JPEGImages", ".jpg"), (base / "SegmentationClass", ".png")
    pairs = pair_up(train, "train", image, mask, lone=lone) + pair_up(val, "val", image, mask, lone=lone)
    pairs += pair_up(test, "test", image, mask)
    if source is not None:
        pairs += pair_up(extra, "train", image, source, lone=lone)
    return build_inventory(root, "pascal_voc", pairs, load_classes("pascal_voc"), lone=lone, ignore_index=255)


def _extra(root: Path, base: Path, train: list[str], val: list[str]) -> tuple[list[str], tuple[Path, str] | None]:
    """Find the names that SBD adds to train, and where their masks are."""
    known = {*train, *val}
    converted = base / "SegmentationClassAug"
    if converted.is_dir():
        lists = base / "ImageSets" / "Segmentation"
        listed = [Path(name).stem for name in read_names(lists / "trainaug.txt") or read_names(lists / "train_aug.txt")]
        names = set(listed or (path.stem for path in converted.glob("*.png")))
        return sorted(names - known), (converted, ".png")
    folders = [folder / name for folder in (root, base.parent) for name in SBD]
    release = next((folder for folder in folders if (folder / "cls").is_dir()), None)
    if release is None:
        return [], None
    names = {*read_names(release / "train.txt"), *read_names(release / "val.txt")}
    return sorted(names - known), (release / "cls", ".mat")
