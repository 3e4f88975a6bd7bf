# SPDX-License-Identifier: Apache-2.0
"""Which picture belongs to which mask: a folder is listed once, by names alone, and paired by stem.

``images/`` and ``masks/`` flat or with ``train/ val/ test/`` below (or above); the folders may have their other usual
names, and masks may carry a suffix such as ``_mask``. Public data sets are recognised by their files first, see
``layouts/``. No picture is opened here, but for stacks of slices in TIFF.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from denseg.data.folders.description import ClassDescription, Description, read_description
from denseg.data.folders.inventory import Inventory, Pair, sort_pairs, split_names
from denseg.data.folders.layouts.catalog import read_layout
from denseg.data.folders.rasters import VECTORS, to_windows
from denseg.data.reading.images import probe_image
from denseg.data.reading.layers import find_layers
from denseg.data.reading.parts import pages_around
from denseg.errors import DataError, ImageError

__all__ = ["IMAGE_SUFFIXES", "Inventory", "Pair", "discover", "sort_pairs", "split_names"]

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".ppm", ".pgm", ".pbm", ".avif"}
)
TIFF = frozenset({".tif", ".tiff"})
ANY_SIZE = 2**62  # sizes are judged when pictures are read
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "raw", "inputs", "input")
MASK_FOLDERS = (
    "masks", "mask", "labels", "label", "annotations", "annotation", "annot", "segmentation", "segmentations",
    "segmentationclass", "gt", "groundtruth", "ground_truth", "targets", "target", "labelmaps",
)  # fmt: skip
SPLITS: Mapping[str, str] = {
    "train": "train", "training": "train", "trn": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "tst": "test",
}  # fmt: skip
_MASK_MARK = re.compile(
    r"[-_. ](masks?|labels?|gt|seg|segmentation|annot(ation)?s?|groundtruth|target|l)$", re.IGNORECASE
)


def discover(root: Path | str) -> Inventory:
    """List a data folder and pair its pictures and masks.

    Args:
        root: The folder.

    Returns:
        The pairs, and what could not be paired.

    Raises:
        DataError: There is no such folder, nothing in it can be a set of pictures and masks, or its ``dataset.yaml`` is
            wrong.
    """
    root = Path(root)
    if not root.exists():
        raise DataError(f"there is no folder {root}", path=root)
    if not root.is_dir():
        raise DataError(f"{root} is a file; give the folder that holds images/ and masks/", path=root)
    description = read_description(root)
    inventory = read_layout(root, description)
    if inventory is not None:
        return _described(replace(inventory, pairs=to_windows(inventory.pairs, inventory.description)))
    images, masks, ignored = _sort_files(root)
    if not images and not masks:
        raise DataError(f"{root} holds no pictures; expected images/ and masks/ with files of equal names", path=root)
    inventory = _pair(root, images, masks, ignored)
    if not inventory.pairs and images and masks:
        inventory, description = _layered(inventory, images, masks, description)
    if not description.bits:
        inventory = _across_folders(inventory, images, masks)
    vectors = [pair.mask for pair in inventory.pairs if pair.mask.suffix.lower() in VECTORS]
    if vectors:
        from denseg.data.reading.vectors import describe

        description = describe(description, vectors)
    inventory = replace(inventory, description=description)
    return _described(replace(inventory, pairs=to_windows(_slices(inventory.pairs), description)))


@dataclass(slots=True)
class _Entry:
    path: Path
    split: str | None
    folder: str  # what is left of the path without role and split, "/" between the parts
    stem: str


def _sort_files(root: Path) -> tuple[list[_Entry], list[_Entry], list[Path]]:
    images: list[_Entry] = []
    masks: list[_Entry] = []
    ignored: list[Path] = []
    for folder, names in _walk(str(root)):
        role, split, rest = _meaning(Path(folder).relative_to(root).parts)
        base = Path(folder)
        marked = role == "" and _marked(names)
        for name in names:
            stem, dot, suffix = name.rpartition(".")
            if stem and f"{dot}{suffix}".lower() in VECTORS:
                masks.append(_Entry(base / name, split, rest, stem))
                continue
            if not stem or f"{dot}{suffix}".lower() not in IMAGE_SUFFIXES:
                ignored.append(base / name)
                continue
            entry = _Entry(base / name, split, rest, stem)
            is_mask = role == "mask" or (marked and _MASK_MARK.search(stem) is not None)
            (masks if is_mask else images).append(entry)
    return images, masks, ignored


def _walk(top: str) -> Iterable[tuple[str, list[str]]]:
    """List folders and their file names, sorted, each real folder once; hidden ones are passed over."""
    pending, seen = [top], set()
    while pending:
        folder = pending.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        names: list[str] = []
        below: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name == "__MACOSX":
                        continue
                    (below if entry.is_dir() else names).append(entry.name)
        except OSError as error:
            raise DataError(f"cannot list the folder {folder}: {error.strerror or error}", path=folder) from error
        yield folder, sorted(names)
        pending += [os.path.join(folder, name) for name in sorted(below, reverse=True)]  # noqa: PTH118 (speed)


def _meaning(parts: tuple[str, ...]) -> tuple[str, str | None, str]:
    """Read role and split from folder names: the deepest that says something counts."""
    role, split, rest = "", None, []
    for part in parts:
        name = part.lower()
        if name in SPLITS:
            split = SPLITS[name]
        elif name in IMAGE_FOLDERS:
            role = "image"
        elif name in MASK_FOLDERS:
            role = "mask"
        else:
            both = re.fullmatch(rf"({'|'.join(SPLITS)})[-_]?({'|'.join((*IMAGE_FOLDERS, *MASK_FOLDERS))})", name)
            if both is None:
                rest.append(part)
                continue
            split, role = SPLITS[both[1]], "mask" if both[2] in MASK_FOLDERS else "image"
    return role, split, "/".join(rest)


def _marked(names: list[str]) -> bool:
    """Whether masks lie beside their pictures: some name is another one plus a mask mark."""
    stems = {name.rpartition(".")[0] for name in names}
    return any(_MASK_MARK.sub("", stem) in stems for stem in stems if _MASK_MARK.search(stem))


def _pair(root: Path, images: list[_Entry], masks: list[_Entry], ignored: list[Path]) -> Inventory:
    by_key: dict[tuple[str | None, str, str], list[list[Path]]] = defaultdict(lambda: [[], []])
    for entry in images:
        by_key[entry.split, entry.folder, entry.stem][0].append(entry.path)
    image_keys = {key for key, (found, _) in by_key.items() if found}
    for entry in masks:
        key = (entry.split, entry.folder, entry.stem)
        if key not in image_keys:
            plain = (entry.split, entry.folder, _MASK_MARK.sub("", entry.stem))
            key = plain if plain in image_keys else key
        by_key[key][1].append(entry.path)
    pairs: list[Pair] = []
    lone_images: list[Path] = []
    lone_masks: list[Path] = []
    twice: dict[str, tuple[Path, ...]] = {}
    used: dict[str, int] = defaultdict(int)
    for _, folder, stem in by_key:
        used["-".join([*folder.split("/"), stem] if folder else [stem])] += 1
    for (split, folder, stem), (found, labels) in by_key.items():
        name = "-".join([*folder.split("/"), stem] if folder else [stem])
        if used[name] > 1 and split:
            name = f"{split}-{name}"
        if len(found) > 1 or len(labels) > 1:
            twice[name] = (*found, *labels)
        elif not labels:
            lone_images += found
        elif not found:
            lone_masks += labels
        else:
            pairs.append(Pair(name, found[0], labels[0], split))
    lone = tuple(lone_images), tuple(lone_masks)
    return Inventory(root, "folder", sort_pairs(pairs), *lone, twice, split_names(pairs), tuple(ignored))


def _across_folders(inventory: Inventory, images: list[_Entry], masks: list[_Entry]) -> Inventory:
    """Pair what is left by name alone, where picture and mask lie in folders of other names or only one has a split.

    A name that several pictures or masks have in that way is told, not guessed at.
    """
    lone_images, lone_masks = set(inventory.unpaired_images), set(inventory.unpaired_masks)
    if not lone_images or not lone_masks:
        return inventory
    by_stem: dict[str, tuple[list[_Entry], list[_Entry]]] = defaultdict(lambda: ([], []))
    for entry in images:
        if entry.path in lone_images:
            by_stem[entry.stem][0].append(entry)
    for entry in masks:
        if entry.path in lone_masks:
            plain = _MASK_MARK.sub("", entry.stem)
            by_stem[plain if plain in by_stem else entry.stem][1].append(entry)
    taken = {pair.stem for pair in inventory.pairs}
    pairs, twice = [], dict(inventory.twice)
    for stem, (pictures, labels) in by_stem.items():
        fits = len(pictures) == len(labels) == 1 and labels[0].split in (None, pictures[0].split)
        if fits and stem not in taken:
            pairs.append(Pair(stem, pictures[0].path, labels[0].path, pictures[0].split))
        elif pictures and labels and not fits and len(pictures) + len(labels) > 2:
            twice.setdefault(stem, tuple(entry.path for entry in (*pictures, *labels)))
        else:
            continue
        lone_images -= {entry.path for entry in pictures}
        lone_masks -= {entry.path for entry in labels}
    return replace(
        inventory,
        pairs=sort_pairs([*inventory.pairs, *pairs]),
        unpaired_images=tuple(path for path in inventory.unpaired_images if path in lone_images),
        unpaired_masks=tuple(path for path in inventory.unpaired_masks if path in lone_masks),
        twice=twice,
        splits=split_names([*inventory.pairs, *pairs]),
    )


def _layered(
    inventory: Inventory, images: list[_Entry], masks: list[_Entry], description: Description
) -> tuple[Inventory, Description]:
    """Pair pictures with masks of one file per class, where that is what the masks are."""
    pictures = {(entry.split, entry.folder, entry.stem): entry for entry in images}
    listed = [((entry.split, entry.folder, entry.stem), entry.path) for entry in masks]
    wanted = [described.name for described in description.classes if described.name != "background"]
    layers = find_layers(pictures.keys(), listed, wanted, description.source)
    if layers is None:
        return inventory, description
    used = Counter(stem for _, _, stem in pictures)
    pairs = [
        Pair(
            key[2] if used[key[2]] == 1 else "-".join(part for part in (key[0], *key[1].split("/"), key[2]) if part),
            pictures[key].path,
            files[0][1],
            key[0],
            layers=files,
        )
        for key, files in layers.files.items()
    ]
    lone = tuple(entry.path for key, entry in pictures.items() if key not in layers.files)
    inventory = replace(
        inventory,
        pairs=sort_pairs(pairs),
        unpaired_images=lone,
        unpaired_masks=layers.lone,
        splits=split_names(pairs),
    )
    background = next((one for one in description.classes if one.name == "background"), None)
    known = {described.name: described for described in description.classes}
    classes = tuple(known.get(name, ClassDescription(name=name)) for name in layers.names)
    classes = classes if background is None else (background, *classes)
    return inventory, description.model_copy(update={"bits": True, "classes": classes})


def _slices(pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
    """Make a pair of every page where picture and mask are stacks of equally many; the first stack decides to look."""
    stacks = [pair for pair in pairs if pair.image.suffix.lower() in TIFF and pair.mask.suffix.lower() in TIFF]
    if not stacks or _pages(stacks[0]) < 2:
        return pairs
    pages = {pair.stem: _pages(pair) for pair in stacks}
    expanded = []
    for pair in pairs:
        count = pages.get(pair.stem, 1)
        digits = len(str(count - 1))
        expanded += (
            [
                replace(pair, stem=f"{pair.stem}_{page:0{digits}d}", image_page=page, mask_page=page)
                for page in range(count)
            ]
            if count > 1
            else [pair]
        )
    return tuple(expanded)


def _pages(pair: Pair) -> int:
    """Count the pages that picture and mask have both; 1 where they differ or a file cannot be read."""
    try:
        image, mask = probe_image(pair.image, max_pixels=ANY_SIZE), probe_image(pair.mask, max_pixels=ANY_SIZE)
    except ImageError:
        return 1
    return image.frames if image.frames == mask.frames else 1


def _described(inventory: Inventory) -> Inventory:
    """Apply the neighbours, the split and the groups of ``dataset.yaml``."""
    description, root = inventory.description, inventory.root
    pairs = list(inventory.pairs)
    if description.neighbours:
        count = Counter(pair.image for pair in pairs)
        pairs = [
            replace(pair, pages=pages_around(pair.image_page, count[pair.image], description.neighbours))
            if count[pair.image] > 1 and pair.window is None
            else pair
            for pair in pairs
        ]
    if description.split:
        wanted: dict[str, str] = {}
        for split, stems in description.split.items():
            for stem in _stems(root, description.path, stems):
                if wanted.setdefault(stem, split) != split:
                    raise DataError(
                        f"{description.path}: {stem!r} is in both {wanted[stem]} and {split}", path=description.path
                    )
        known = {pair.stem for pair in pairs}
        unknown = [stem for stem in wanted if stem not in known]
        if unknown:
            raise DataError(
                f"{description.path}: split names {unknown[0]!r}, and no pair has that name; {len(unknown)} of"
                f" {len(wanted)} names are unknown",
                path=description.path,
            )
        pairs = [replace(pair, split=wanted[pair.stem]) for pair in pairs if pair.stem in wanted]
    if description.group.endswith(".csv"):
        groups = _group_table(root / description.group)
        pairs = [replace(pair, group=groups.get(pair.stem, "")) for pair in pairs]
    elif description.group:
        pairs = [replace(pair, group=_group(root, pair, description)) for pair in pairs]
    return replace(inventory, pairs=sort_pairs(pairs), splits=split_names(pairs))


def _stems(root: Path, source: Path | None, stems: str | tuple[str, ...]) -> list[str]:
    if not isinstance(stems, str):
        return list(stems)
    try:
        lines = (root / stems).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source}: cannot read the list {stems} of a split: {error}", path=root / stems) from error
    names = [line.split()[0].rpartition("/")[2] for line in lines if line.strip()]
    return [name.rpartition(".")[0] if _is_picture(name) else name for name in names]


def _is_picture(name: str) -> bool:
    return f".{name.rpartition('.')[2]}".lower() in IMAGE_SUFFIXES


def _group_table(path: Path) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {row["stem"]: row["group"] for row in csv.DictReader(file)}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read the groups in {path}: {error}", path=path) from error
    except KeyError as error:
        raise DataError(f"{path}: needs the columns stem and group, and has no {error}", path=path) from error


def _group(root: Path, pair: Pair, description: Description) -> str:
    if description.group == "folder":
        return pair.image.parent.relative_to(root).as_posix() if pair.image.is_relative_to(root) else ""
    match = re.search(description.group, pair.stem)
    if match is None or match[1] is None:
        raise DataError(
            f"{description.path}: group {description.group!r} does not match {pair.stem!r}", path=description.path
        )
    return match[1]
