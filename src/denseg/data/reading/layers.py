# SPDX-License-Identifier: Apache-2.0
"""Masks of one file per class: ``masks/CLASS/STEM.png`` or ``masks/STEM_CLASS.png``, read as one mask of bits.

Bit 0 stands for the first class, bit 1 for the second, …; what the bits mean where they overlap is settled by the mask
doctor (``proposal_bits.py``).

Letters: H and W height and width in pixels.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from denseg.data.reading.decode import decode
from denseg.data.reading.masks import to_mask
from denseg.data.reading.stored import Decoded, Header
from denseg.errors import DataError, ImageError

__all__ = ["MAX_CLASSES", "Layers", "find_layers", "layered_pixels"]

MAX_CLASSES = 31  # bits of a mask
_MARKED = re.compile(r"[-_. ](?=([^-_. ]+(?:[-_. ][^-_. ]+)*)$)")

Key = tuple[str | None, str, str]  # split, folder, stem: what picture and mask share


class Layers(NamedTuple):
    """Masks by picture and class.

    Attributes:
        names: The classes, in the order of their bits.
        files: For each picture the bit and the file of every class that it has.
        lone: Masks that belong to no picture.
    """

    names: tuple[str, ...]
    files: Mapping[Key, tuple[tuple[int, Path], ...]]
    lone: tuple[Path, ...]


def find_layers(
    images: Collection[Key], masks: Iterable[tuple[Key, Path]], wanted: Sequence[str], source: str
) -> Layers | None:
    """Find out whether masks are stored as one file per class.

    Args:
        images: The pictures.
        masks: What each mask would be called as a picture, and its file.
        wanted: Names of the classes as ``dataset.yaml`` gives them, background aside; decides the order.
        source: Who names them, for the message.

    Returns:
        The masks by picture; ``None`` where most of them do not fit that form.

    Raises:
        DataError: A file stands for a class that ``dataset.yaml`` does not name, or there are too many classes.
    """
    listed = list(masks)
    for split_off in (_by_folder, _by_suffix):
        found: dict[Key, dict[str, Path]] = defaultdict(dict)
        lone = []
        for key, path in listed:
            match = next(((base, name) for base, name in split_off(key) if base in images), None)
            if match is None or match[1] in found[match[0]]:
                lone.append(path)
            else:
                found[match[0]][match[1]] = path
        names = sorted({name for classes in found.values() for name in classes})
        if len(lone) * 2 > len(listed) or not names or all(name.isdigit() for name in names):
            continue
        if len(names) == 1 and split_off is _by_suffix:
            continue  # a mark that every mask has is no class
        return Layers(tuple(order := _ordered(names, wanted, source)), _bits(found, order), tuple(lone))
    return None


def layered_pixels(layers: Sequence[tuple[int, Path]], *, max_pixels: int) -> Decoded:
    """Put the masks of single classes together.

    Args:
        layers: Bit and file of each.
        max_pixels: Larger files are refused.

    Returns:
        ``(H, W)``: each bit says whether the class is there.

    Raises:
        ImageError: A file cannot be read, holds colours, or differs in size from the first one.
    """
    bits: NDArray[Any] | None = None
    for bit, path in layers:
        raw = to_mask(decode(path, max_pixels=max_pixels), path)
        if raw.kind == "color":
            raise ImageError(
                f"{path}: a mask of one class holds 0 and another value, not colours; save it as grey", path=path
            )
        values = raw.values
        if bits is None:
            bits = np.zeros(values.shape, np.uint8 if max(bit for bit, _ in layers) < 8 else np.int32)
        if values.shape != bits.shape:
            raise ImageError(
                f"{path}: the mask is {values.shape[1]} x {values.shape[0]} pixels, that of another class"
                f" {bits.shape[1]} x {bits.shape[0]}; make them equal",
                path=path,
            )
        bits[values > _middle(values)] |= bits.dtype.type(1 << bit)
    if bits is None:
        raise ImageError("a mask needs the file of one class at least")
    height, width = bits.shape
    return Decoded(Header(height, width, 1, bits.dtype.name, "grey", "LAYERS", "LAYERS"), bits)


def _middle(values: NDArray[Any]) -> float:
    """Give the value above which a mask of one class means yes: half of white; 0 where the values are few."""
    top = float(values.max(initial=0))
    return top / 2 if values.dtype.kind == "f" or len(np.unique(values)) > 2 else 0.0


def _by_folder(key: Key) -> Iterable[tuple[Key, str]]:
    split, folder, stem = key
    if folder:
        above, _, name = folder.rpartition("/")
        yield (split, above, stem), name


def _by_suffix(key: Key) -> Iterable[tuple[Key, str]]:
    """Try every cut of a name, the shortest class first."""
    split, folder, stem = key
    for place in reversed([match.start() for match in _MARKED.finditer(stem)]):
        yield (split, folder, stem[:place]), stem[place + 1 :]


def _ordered(names: Sequence[str], wanted: Sequence[str], source: str) -> list[str]:
    unknown = [name for name in names if wanted and name not in wanted]
    if unknown:
        raise DataError(f"masks of class {unknown[0]!r}, which {source} does not name; add it to classes")
    order = list(wanted) if wanted else list(names)
    if len(order) > MAX_CLASSES:
        raise DataError(
            f"masks of one file per class can have {MAX_CLASSES} classes, got {len(order)}; store class indices"
        )
    return order


def _bits(found: Mapping[Key, Mapping[str, Path]], order: Sequence[str]) -> dict[Key, tuple[tuple[int, Path], ...]]:
    return {
        key: tuple(sorted((order.index(name), path) for name, path in classes.items()))
        for key, classes in found.items()
        if classes
    }
