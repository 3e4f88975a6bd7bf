# SPDX-License-Identifier: Apache-2.0
"""What a data folder holds: pairs of picture and mask, and the files that found no partner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from denseg.data.folders.description import Description

__all__ = ["Inventory", "Pair", "sort_pairs", "split_names"]

ORDER = ("train", "val", "test")


def _nothing_said() -> Description:
    from denseg.data.folders.description import Description  # not at the top: workers that read pairs need none of it

    return Description()


@dataclass(frozen=True, slots=True)
class Pair:
    """One picture and its mask.

    Attributes:
        stem: Unique name within the inventory; what outputs are called.
        image: The picture's file.
        mask: The mask's file.
        split: ``train``, ``val``, ``test`` or ``None`` where the folder has no split.
        image_page: Page of a multi-page TIFF.
        mask_page: Page of a multi-page TIFF.
        group: Pictures of one group never lie in different splits that denseg makes; empty where unknown.
        window: ``(top, left, height, width)`` in pixels of a part of a large raster; ``None`` for all of it.
        pages: Pages of the picture that are its bands together: a slice and its neighbours; empty for one page alone.
        layers: Bit and file of each class, where masks are one file per class; ``mask`` is the first of them.
    """

    stem: str
    image: Path
    mask: Path
    split: str | None = None
    image_page: int = 0
    mask_page: int = 0
    group: str = ""
    window: tuple[int, int, int, int] | None = None
    layers: tuple[tuple[int, Path], ...] = ()
    pages: tuple[int, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The picture and all files of its mask."""
        return (self.image, *(path for _, path in self.layers)) if self.layers else (self.image, self.mask)


@dataclass(frozen=True)
class Inventory:
    """What a data folder holds.

    Attributes:
        root: The folder.
        layout: How it was read: ``folder`` or the name of a public layout.
        pairs: Sorted by split and stem.
        unpaired_images: Pictures without a mask.
        unpaired_masks: Masks without a picture.
        twice: Stems that more than one picture or mask claims, with those files; none of them is in ``pairs``.
        splits: The splits there are, ``train`` first; empty where the folder has none.
        ignored: Files that are neither picture nor mask.
        description: What ``dataset.yaml`` says.
    """

    root: Path
    layout: str
    pairs: tuple[Pair, ...]
    unpaired_images: tuple[Path, ...] = ()
    unpaired_masks: tuple[Path, ...] = ()
    twice: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    splits: tuple[str, ...] = ()
    ignored: tuple[Path, ...] = ()
    description: Description = field(default_factory=_nothing_said)

    def of(self, split: str | None) -> tuple[Pair, ...]:
        """Give the pairs of one split; all of them for ``None`` or ``all``."""
        return self.pairs if split in (None, "all") else tuple(pair for pair in self.pairs if pair.split == split)


def sort_pairs(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    """Order pairs by split and stem.

    Args:
        pairs: The pairs.

    Returns:
        ``train``, ``val``, ``test``, and those without a split first.
    """
    return tuple(sorted(pairs, key=lambda pair: (ORDER.index(pair.split) if pair.split else -1, pair.stem)))


def split_names(pairs: Iterable[Pair]) -> tuple[str, ...]:
    """List the splits that pairs have.

    Args:
        pairs: The pairs.

    Returns:
        In the order ``train``, ``val``, ``test``.
    """
    present = {pair.split for pair in pairs}
    return tuple(split for split in ORDER if split in present)
