# SPDX-License-Identifier: Apache-2.0
"""Which picture trains and which one judges: a seeded split that stays put when pictures are added.

Every group (by default every picture) gets a number from the SHA-256 of the seed and its name, and the smallest
numbers are held out. So the split depends on names and seed only, not on the order of files, the machine or a library's
random generator, and a picture that is added moves at most the pictures at the cut.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from denseg.errors import DataError, ImageError, UsageError
from denseg.files import sha256_of

if TYPE_CHECKING:
    from denseg.data.folders.folder import Pair

__all__ = ["SplitRow", "assign_split", "make_split", "split_rows"]


class SplitRow(NamedTuple):
    """One line of ``split.csv``: which picture was used for what, and its exact content.

    Attributes:
        stem: Name that image and mask share.
        image: Path of the image, relative to the data folder, with ``/``.
        mask: Path of the mask, relative to the data folder, with ``/``.
        split: ``train``, ``val``, ``test`` or the folder's own name.
        sha256: Digest over the bytes of image and mask.
        image_page: Page of a multi-page TIFF, or id in an annotation file.
        mask_page: Likewise.
        window: ``top,left,height,width`` of a part of a large raster; empty for the whole picture.
    """

    stem: str
    image: str
    mask: str
    split: str
    sha256: str
    image_page: int = 0
    mask_page: int = 0
    window: str = ""


def make_split(
    stems: Iterable[str],
    *,
    val_share: float,
    seed: int,
    groups: Mapping[str, str] | None = None,
    classes: Mapping[str, Collection[int]] | None = None,
) -> dict[str, str]:
    """Hold out a share of pictures.

    Where the classes of each picture are known, a split whose one side lacks a class that the other has is mended: the
    group with that class whose number is nearest to the cut changes sides, as long as its side does not lose a class by
    it.

    Args:
        stems: Names of the pictures, each once.
        val_share: Share of pictures to hold out, above 0 and below 1; at least one group is held out and one kept.
        seed: Another seed gives another split.
        groups: Group of each stem (a scene, a patient, a video); a group is never divided. Stems that are not in it
            are groups of their own.
        classes: The classes that each stem holds.

    Returns:
        ``train`` or ``val`` by stem, in the order of ``stems``.

    Raises:
        DataError: There are fewer than two groups, so that nothing could be held out.
        UsageError: The share is not between 0 and 1, or a stem comes twice.
    """
    names = list(stems)
    if not 0 < val_share < 1:
        raise UsageError(f"val_share must be above 0 and below 1, got {val_share}")
    if len(set(names)) != len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise UsageError(f"a split needs each name once, got {twice!r} twice")
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(_group(name, groups), []).append(name)
    if len(members) < 2:
        what = "1 picture" if len(names) == 1 else f"{len(names)} pictures of 1 group"
        raise DataError(
            f"a split needs at least 2 pictures of different groups, got {what if names else 'none'}; "
            "add labelled pictures, or bring train and val folders"
        )
    order = sorted(members, key=lambda group: (_number(seed, group), group))
    wanted = max(1.0, val_share * len(names))
    held: set[str] = set()
    for group in order[:-1]:
        # A group goes in while that brings the held-out count nearer to the wanted one.
        if held and wanted - len(held) < len(members[group]) / 2:
            break
        held.update(members[group])
    if classes is not None:
        kinds = {group: {kind for name in members[group] for kind in classes.get(name, ())} for group in members}
        taken = {group for group in order if members[group][0] in held}
        _mend(order, kinds, taken)
        held = {name for group in taken for name in members[group]}
    return {name: "val" if name in held else "train" for name in names}


def _mend(order: Sequence[str], kinds: Mapping[str, Collection[int]], held: set[str]) -> None:
    """Move groups until both sides have every class that at least two groups have; rarest classes first."""

    def holders(kind: int, side: bool) -> list[str]:
        return [group for group in order if kind in kinds[group] and (group in held) == side]

    every = {kind for found in kinds.values() for kind in found}
    for kind in sorted(every, key=lambda kind: (sum(kind in found for found in kinds.values()), kind)):
        sides = {side: holders(kind, side) for side in (True, False)}
        if bool(sides[True]) == bool(sides[False]) or sum(map(len, sides.values())) < 2:
            continue
        full = bool(sides[True])
        # The nearest to the cut: held groups from the end of the order, the others from its start.
        for group in reversed(sides[True]) if full else sides[False]:
            if all(len(holders(other, full)) > 1 for other in kinds[group]):
                if full:
                    held.discard(group)
                else:
                    held.add(group)
                break


def assign_split(
    pairs: Sequence[Pair], *, val_share: float, seed: int, classes: Mapping[str, Collection[int]] | None = None
) -> tuple[tuple[Pair, ...], bool]:
    """Give every pair a split: the folder's own where it has a ``val``, else a seeded one.

    A folder with ``train`` and ``test`` but no ``val`` keeps its test pictures aside: only the training pictures are
    divided. Pairs without a split count as training pictures, and pairs of one ``group`` stay together.

    Args:
        pairs: What the folder holds.
        val_share: See ``make_split``.
        seed: See ``make_split``.
        classes: See ``make_split``.

    Returns:
        The pairs, each with its split, and whether a split was made here.

    Raises:
        DataError: No picture is for training, or there are too few to hold one out.
    """
    named = tuple(pair if pair.split else dataclasses.replace(pair, split="train") for pair in pairs)
    splits = {pair.split for pair in named}
    if "train" not in splits:
        found = f"the folder's splits are {', '.join(sorted(map(str, splits)))}" if splits else "the folder has no pair"
        raise DataError(
            f"there is no picture to train on: {found}; name the training split train, "
            "or put all pictures flat into images/ and masks/"
        )
    if "val" in splits:
        return named, False
    training = [pair for pair in named if pair.split == "train"]
    groups = {pair.stem: pair.group for pair in training if pair.group}
    division = make_split(
        (pair.stem for pair in training), val_share=val_share, seed=seed, groups=groups, classes=classes
    )
    return tuple(
        dataclasses.replace(pair, split=division[pair.stem]) if pair.split == "train" else pair for pair in named
    ), True


def split_rows(pairs: Iterable[Pair], root: Path) -> tuple[SplitRow, ...]:
    """Describe the pairs for the run's ``split.csv``.

    Args:
        pairs: The pairs, each with a split.
        root: The data folder; paths below it are written relative to it.

    Returns:
        One row per pair, in order.

    Raises:
        ImageError: A file has gone or cannot be read.
    """
    rows = []
    known: dict[Path, bytes] = {}  # a stack of slices or an annotation file belongs to many pairs
    for pair in pairs:
        digest = hashlib.sha256()
        for path in pair.files:
            try:
                if path not in known:
                    known[path] = bytes.fromhex(sha256_of(path))
            except OSError as error:
                raise ImageError(f"cannot read {path}: {error.strerror or error}", path=path) from error
            digest.update(known[path])
        rows.append(
            SplitRow(
                pair.stem,
                _relative(pair.image, root),
                _relative(pair.mask, root),
                pair.split or "",
                digest.hexdigest(),
                pair.image_page,
                pair.mask_page,
                ",".join(map(str, pair.window or ())),
            )
        )
    return tuple(rows)


def _group(name: str, groups: Mapping[str, str] | None) -> str:
    return f"group:{groups[name]}" if groups is not None and name in groups else f"picture:{name}"


def _number(seed: int, group: str) -> str:
    return hashlib.sha256(f"{seed}\n{group}".encode()).hexdigest()


def _relative(path: Path, root: Path) -> str:
    try:
        return path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return path.resolve().as_posix()
