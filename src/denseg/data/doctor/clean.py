# SPDX-License-Identifier: Apache-2.0
"""A clean copy of a data folder: ``images/`` and ``masks/`` by split, index PNG, ``dataset.yaml``. Never in place.

Pictures that every reader takes for what they are, are copied byte for byte; turned, transparent, palette and CMYK ones
and single pages are written anew without loss. Pairs that cannot be used are left out, and of copies the one in train.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import yaml
from numpy.typing import NDArray
from PIL import Image

from denseg.data.doctor.doctor import Examination
from denseg.data.doctor.hygiene import find_copies
from denseg.data.encoding import MaskEncoding
from denseg.data.folders.inventory import Pair
from denseg.data.reading.images import probe_image
from denseg.data.samples.pairs import read_pair_image, read_pair_labels
from denseg.errors import DataError, UsageError
from denseg.files import atomic_path, make_folder, write_atomic
from denseg.types import ClassTable

__all__ = ["CleanCopy", "write_clean_copy"]

PLAIN_MODES = {"L", "RGB", "I;16", "MINISBLACK"}
PLAIN_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp"}


@dataclass(frozen=True)
class CleanCopy:
    """What was written.

    Attributes:
        folder: The new data folder.
        written: Pairs in it.
        rewritten: Pictures that were not copied byte for byte.
        left_out: Pictures that are not in it: unusable, or copies of others.
    """

    folder: Path
    written: int
    rewritten: int
    left_out: tuple[Path, ...]


def write_clean_copy(
    examination: Examination, out: Path, *, progress: Callable[[int, int], None] | None = None
) -> CleanCopy:
    """Write the usable pairs of a data folder in the plain form.

    Args:
        examination: What the mask doctor found; its mapping is applied.
        out: A folder that does not exist or is empty, outside of the data folder.
        progress: Called with pairs written and pairs in all.

    Returns:
        What was written.

    Raises:
        DataError: How masks are to be read is not settled, or no pair can be used.
        UsageError: ``out`` is not empty, or lies in the data folder.
    """
    root = examination.inventory.root
    unsettled = [f for f in examination.findings if f.severity == "error" and f.code in UNSETTLED]
    if unsettled:
        raise DataError(f"{root}: cannot be copied before its masks are understood: {unsettled[0].message}", path=root)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not an empty folder; a clean copy overwrites nothing, choose another folder")
    if out.resolve().is_relative_to(root.resolve()):
        raise UsageError(f"{out} lies in the data folder {root}; a clean copy is never written in place")
    surplus = _surplus(examination.pairs)
    pairs = [pair for index, pair in enumerate(examination.pairs) if index not in surplus]
    if not pairs:
        raise DataError(f"{root}: no pair can be used, so there is nothing to copy", path=root)
    rewritten = 0
    for done, pair in enumerate(pairs, 1):
        below = Path(pair.split or ".")
        images, masks = (make_folder(out / kind / below) for kind in ("images", "masks"))
        rewritten += _write_image(pair, images, examination.bands)
        _write_mask(pair, masks / f"{pair.stem}.png", examination.encoding, examination.classes)
        if progress is not None:
            progress(done, len(pairs))
    write_atomic(out / "dataset.yaml", _description(examination))
    kept = {pair.image for pair in pairs}
    every = [pair.image for pair in examination.inventory.pairs] + list(examination.inventory.unpaired_images)
    left_out = tuple(dict.fromkeys(path for path in every if path not in kept))
    return CleanCopy(out, len(pairs), rewritten, left_out)


UNSETTLED = frozenset(
    {
        "values-beyond-classes", "labels-lost", "mixed-masks", "object-numbers", "too-many-colors", "one-value",
        "blurred-beyond-repair", "classes-guessed", "swapped", "float-mask", "bands-differ",
    }
)  # fmt: skip


def _surplus(pairs: Sequence[Pair]) -> set[int]:
    """Choose the copies to leave out: those in train before those that judge."""
    dropped = set()
    for copies in find_copies(pairs):
        keep = max(copies, key=lambda index: (pairs[index].split not in (None, "train"), -index))
        dropped |= set(copies) - {keep}
    return dropped


def _write_image(pair: Pair, folder: Path, bands: int) -> bool:
    if pair.window is not None or pair.pages:
        return _write_pixels(pair, folder, bands)
    info = probe_image(pair.image, page=pair.image_page)
    suffix = pair.image.suffix.lower()
    plain = info.mode in PLAIN_MODES and info.orientation == 1 and not info.alpha and info.frames == 1
    if plain and info.bands == bands and suffix in PLAIN_SUFFIXES:
        with atomic_path(folder / f"{pair.stem}{suffix}") as temporary:
            shutil.copyfile(pair.image, temporary)
        return False
    return _write_pixels(pair, folder, bands)


def _write_pixels(pair: Pair, folder: Path, bands: int) -> bool:
    image = read_pair_image(pair, bands=bands)
    if image.dtype == np.uint8 and bands in (1, 3):
        write_atomic(folder / f"{pair.stem}.png", _png(Image.fromarray(image if bands == 3 else image[:, :, 0])))
    else:
        write_atomic(folder / f"{pair.stem}.tif", _tiff(image))
    return True


def _tiff(image: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    bands = image.shape[2]
    values = image[:, :, 0] if bands == 1 else image
    extra: dict[str, Any] = (
        {} if bands == 1 else {"planarconfig": "contig", "extrasamples": ["unspecified"] * (bands - 1)}
    )
    tifffile.imwrite(buffer, values, photometric="minisblack", compression="zlib", **extra)
    return buffer.getvalue()


def _write_mask(pair: Pair, path: Path, encoding: MaskEncoding, classes: ClassTable) -> None:
    labels = read_pair_labels(pair, encoding)
    image = Image.fromarray(labels)
    if labels.dtype == np.uint8:
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(classes)] = classes.colors
        palette[classes.ignore_index] = 255
        image.putpalette(palette.ravel().tolist())
    write_atomic(path, _png(image))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _description(examination: Examination) -> str:
    classes = examination.classes
    described = examination.inventory.description
    values: dict[str, Any] = {"name": described.name} if described.name else {}
    values["ignore_index"] = classes.ignore_index
    values["classes"] = [
        {"name": name, "color": list(color)} for name, color in zip(classes.names, classes.colors, strict=True)
    ]
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None)
    return text
