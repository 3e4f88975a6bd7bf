# SPDX-License-Identifier: Apache-2.0
"""Pictures of a data folder for the page of a check: files that a finding names, and how the masks are read.

Letters: H and W height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from denseg.data.doctor.doctor import Examination
from denseg.data.encoding import MaskEncoding
from denseg.data.folders.folder import Inventory, Pair
from denseg.data.reading.images import read_image
from denseg.data.reading.masks import RawMask, read_mask
from denseg.data.samples.pairs import read_pair
from denseg.errors import DensegError
from denseg.report.classes import hex_color
from denseg.report.numbers import share
from denseg.report.pictures import Shot
from denseg.report.pixels import (
    CLEAR_COLORS,
    Color,
    distinct,
    labels_png,
    photo_webp,
    shrink_labels,
    shrink_photo,
    to_display,
)
from denseg.types import distinct_colors

__all__ = ["Panel", "Suspect", "depth_words", "example_shots", "show_suspects"]

_LONGEST = 640  # pixels of an example's longest side
_SMALL = 360  # of a suspicious file's
_PER_FINDING = 4
_SUSPECTS = 32  # pictures of files of all findings together
_EXAMPLES = 6
_VALUES = 6  # stored values named below a mask


@dataclass(frozen=True)
class Panel:
    """One file as a picture.

    Attributes:
        title: What it is: ``image`` or ``mask``.
        picture: ``data:`` address; empty where it cannot be read.
        words: Its size and what it holds, or why it cannot be read.
        values: Colour as shown, stored value and part of the pixels, of a mask's most frequent values.
    """

    title: str
    picture: str
    words: str
    values: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Suspect:
    """A file that a finding names, beside its counterpart."""

    name: str
    panels: tuple[Panel, ...]


def show_suspects(examination: Examination) -> dict[int, tuple[Suspect, ...]]:
    """Picture the files that findings name.

    Args:
        examination: What the mask doctor found.

    Returns:
        Suspects by the finding's place in the list; findings without files are left out.
    """
    inventory = examination.inventory
    by_file = {path: pair for pair in inventory.pairs for path in (pair.image, pair.mask)}
    lone_masks = set(inventory.unpaired_masks)
    encoding = examination.encoding
    left = _SUSPECTS
    shown: dict[int, tuple[Suspect, ...]] = {}
    for place, finding in enumerate(examination.findings):
        suspects: list[Suspect] = []
        done: set[Pair] = set()
        for path in finding.files:
            pair = by_file.get(path)
            if len(suspects) >= _PER_FINDING or left <= 0:
                break
            if pair in done:
                continue
            if pair is not None:
                done.add(pair)
                panels = [_image_panel(pair.image, pair.image_page), _mask_panel(pair.mask, encoding, pair.mask_page)]
            else:
                panels = [_mask_panel(path, encoding) if path in lone_masks else _image_panel(path)]
            suspects.append(Suspect(_below(path, inventory), tuple(panels)))
            left -= 1
        if suspects:
            shown[place] = tuple(suspects)
    return shown


def example_shots(examination: Examination, colors: Sequence[Color]) -> tuple[Shot, ...]:
    """Show evenly chosen pairs with their masks as they will be read.

    Args:
        examination: What the mask doctor found.
        colors: One colour per class.

    Returns:
        At most six; pairs that cannot be read are left out.
    """
    pairs = examination.pairs
    chosen = [pairs[index * len(pairs) // min(_EXAMPLES, len(pairs))] for index in range(min(_EXAMPLES, len(pairs)))]
    shots = []
    for pair in chosen:
        try:
            image, labels = read_pair(pair, examination.encoding)
        except DensegError:
            continue
        small = shrink_labels(labels, _LONGEST)
        shots.append(
            Shot(
                stem=pair.stem,
                miou=None,
                accuracy=None,
                words=_label_words(labels, examination.classes.names),
                width=small.shape[1],
                height=small.shape[0],
                photo=photo_webp(shrink_photo(to_display(image), _LONGEST)),
                truth=labels_png(small, colors),
                prediction="",
                errors="",
            )
        )
    return tuple(shots)


def _image_panel(path: Path, page: int = 0) -> Panel:
    try:
        image = read_image(path, page=page)
    except DensegError as error:
        return Panel("image", "", _without_path(error, path))
    bands = f", {image.shape[2]} bands" if image.shape[2] not in {1, 3} else ""
    words = f"{image.shape[1]} x {image.shape[0]} pixels{bands}, {depth_words(str(image.dtype))}"
    return Panel("image", photo_webp(shrink_photo(to_display(image), _SMALL)), words)


def _mask_panel(path: Path, encoding: MaskEncoding, page: int = 0) -> Panel:
    try:
        raw = read_mask(path, page=page)
    except DensegError as error:
        return Panel("mask", "", _without_path(error, path))
    height, width = raw.values.shape[:2]
    kind = {"color": "colours", "palette": "palette indices", "index": "numbers", "float": "fractions"}[raw.kind]
    picture, values = _mask_view(raw, encoding)
    return Panel("mask", picture, f"{width} x {height} pixels, {kind}", values)


def _mask_view(raw: RawMask, encoding: MaskEncoding) -> tuple[str, tuple[tuple[str, str, str], ...]]:
    """Show stored values: colours as they are, numbers each in a colour of its own, fractions as grey."""
    if raw.kind == "float":
        return photo_webp(shrink_photo(to_display(raw.values[:, :, None].astype(np.float32)), _SMALL)), ()
    flat = raw.values.reshape(-1, raw.values.shape[2]) if raw.kind == "color" else raw.values.reshape(-1)
    stored, inverse, amounts = np.unique(flat, axis=0, return_inverse=True, return_counts=True)
    place: NDArray[np.intp] = inverse.reshape(raw.values.shape[:2])  # (H, W)
    codes: list[int | Color] = [(int(v[0]), int(v[1]), int(v[2])) if raw.kind == "color" else int(v) for v in stored]
    unknown = np.array([not _known(code, encoding) for code in codes])
    order = np.lexsort((-amounts, ~unknown))  # what is no class first, then the most frequent
    if raw.kind == "color":
        colors = [(int(c[0]), int(c[1]), int(c[2])) for c in stored]
        picture = photo_webp(shrink_photo(raw.values, _SMALL), quality=90)
    else:
        tints = distinct((*CLEAR_COLORS, *distinct_colors(len(stored) + 1)[1:])[: min(len(stored), 255)])
        colors = [tints[index % len(tints)] for index in range(len(stored))]
        picture = labels_png(shrink_labels(np.minimum(place, len(tints) - 1), _SMALL), tints)
    shown = tuple(
        (
            hex_color(colors[index]),
            _value_words(codes[index], bool(unknown[index])),
            share(int(amounts[index]) / place.size),
        )
        for index in order[:_VALUES].tolist()
    )
    more = len(stored) - len(shown)
    return picture, (*shown, ("", f"{more:,} more values", "")) if more else shown


def _known(code: int | Color, encoding: MaskEncoding) -> bool:
    """Whether the encoding has a place for a stored value; a kind of mask that it does not read is another finding."""
    return isinstance(code, tuple) != (encoding.kind == "color") or encoding.lookup(code) is not None


def _value_words(code: int | Color, unknown: bool) -> str:
    return (", ".join(map(str, code)) if isinstance(code, tuple) else str(code)) + (" (no class)" if unknown else "")


def depth_words(dtype: str) -> str:
    """Name the depth of a picture's values."""
    return {"uint8": "8 bit", "uint16": "16 bit", "float32": "floating point"}.get(dtype, dtype)


def _label_words(labels: NDArray[np.uint8] | NDArray[np.uint16], names: Sequence[str]) -> str:
    counts = np.bincount(labels.reshape(-1), minlength=len(names))
    parts: Mapping[int, int] = {index: int(counts[index]) for index in range(len(names)) if counts[index]}
    ranked = sorted(parts, key=lambda index: -parts[index])
    words = [f"{names[index]} {share(parts[index] / labels.size)}" for index in ranked[:4]]
    unlabelled = labels.size - sum(parts.values())
    if unlabelled:
        words.append(f"no label {share(unlabelled / labels.size)}")
    return ", ".join(words)


def _below(path: Path, inventory: Inventory) -> str:
    return path.relative_to(inventory.root).as_posix() if path.is_relative_to(inventory.root) else str(path)


def _without_path(error: DensegError, path: Path) -> str:
    text = str(error).removeprefix(f"{path}: ")
    return text[:1].upper() + text[1:]
