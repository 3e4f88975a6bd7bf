# SPDX-License-Identifier: Apache-2.0
"""What the mask doctor can find: the codes are stable, and each has its severity and its meaning here.

``error`` keeps training from starting, unless the user accepts the code by name; ``warning`` is told and goes into the
report; ``info`` says what denseg takes the files to mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

__all__ = ["CODES", "Finding", "Severity", "find"]

Severity = Literal["error", "warning", "info"]

CODES: Mapping[str, tuple[Severity, str]] = MappingProxyType(
    {
        # how files found each other
        "no-pairs": ("error", "no picture has a mask of the same name"),
        "image-without-mask": ("error", "pictures that no mask belongs to"),
        "images-skipped": ("info", "pictures that no mask belongs to, left out as the user said"),
        "mask-without-image": ("warning", "masks that no picture belongs to"),
        "twice-paired": ("error", "several files claim one name"),
        "windows": ("info", "large rasters are read in windows, and parted by regions"),
        # single files
        "image-unreadable": ("error", "pictures that cannot be read: truncated, damaged, not a picture, too large"),
        "mask-unreadable": ("error", "masks that cannot be read"),
        "size-mismatch": ("error", "picture and mask differ in size: rotated, off by a pixel, scaled"),
        "swapped": ("error", "the folders of pictures and masks are exchanged"),
        "grey-among-color": ("info", "some pictures have one band, the others three"),
        "bands-differ": ("error", "pictures differ in their number of bands"),
        "depth-differs": ("warning", "pictures differ in the type of their values"),
        "deep-images": ("info", "pictures of 16 bits or floating point"),
        "nan-pixels": ("warning", "pictures hold NaN, infinity or pixels declared as no data"),
        "alpha": ("warning", "pictures have transparency"),
        "cmyk": ("warning", "pictures are in CMYK"),
        "constant-image": ("warning", "pictures hold a single value"),
        "extreme-size": ("warning", "pictures are very large, very small or very long"),
        "several-frames": ("warning", "files hold several pages or frames"),
        "mask-alpha": ("warning", "masks have transparency"),
        # what masks mean
        "mask-encoding": ("info", "what the stored values of the masks are taken to mean"),
        "values-beyond-classes": ("error", "masks hold values that are no class"),
        "labels-lost": ("error", "labelled pixels would become `no label`"),
        "mixed-masks": ("error", "masks of one folder are stored in different ways"),
        "object-numbers": ("error", "masks hold numbers of objects instead of classes"),
        "too-many-colors": ("error", "masks hold so many colours that they are no masks"),
        "blurred-masks": ("warning", "masks went through JPEG or a smooth resize, and can be repaired"),
        "blurred-beyond-repair": ("error", "masks went through JPEG or a smooth resize, and their classes are lost"),
        "classes-guessed": ("error", "blurred masks of several classes that nobody named"),
        "overlapping-classes": ("warning", "masks of several classes overlap"),
        "float-mask": ("error", "masks hold numbers that are not whole"),
        "one-value": ("error", "all masks together hold a single value: there is nothing to learn"),
        # the data set as a whole
        "mask-ignored": ("warning", "masks without a single labelled pixel"),
        "one-class-masks": ("info", "masks that hold a single class"),
        "class-absent": ("warning", "a class has no pixel in a split, or nowhere"),
        "mostly-ignored": ("info", "most pixels carry no label"),
        "small-data": ("warning", "very few pictures"),
        # split hygiene
        "duplicates-across-splits": ("error", "the same picture lies in several splits"),
        "duplicates": ("warning", "the same picture comes several times in one split"),
        "near-duplicates-across-splits": ("warning", "nearly the same picture lies in several splits"),
        "near-duplicates": ("warning", "nearly the same picture comes several times in one split"),
        "overlapping-crops-across-splits": ("warning", "crops of different splits show the same part of a scene"),
        "overlapping-crops": ("info", "crops of one scene overlap"),
        "video-neighbours": ("warning", "pictures follow each other like frames of a video or slices of a volume"),
        "same-name-across-splits": ("warning", "one name stands for different pictures in several splits"),
    }
)


@dataclass(frozen=True)
class Finding:
    """One thing that the mask doctor found.

    Attributes:
        code: Key of ``CODES``.
        severity: ``error``, ``warning`` or ``info``.
        count: How many files, pairs or classes it is about.
        files: Those files, all of them, in order.
        message: What was found.
        action: What denseg will do, or what the user can do.
    """

    code: str
    severity: Severity
    count: int
    files: tuple[Path, ...]
    message: str
    action: str

    def to_json(self) -> dict[str, Any]:
        """Give the finding as JSON values."""
        return {
            "code": self.code,
            "severity": self.severity,
            "count": self.count,
            "files": [str(file) for file in self.files],
            "message": self.message,
            "action": self.action,
        }


def find(code: str, message: str, action: str, *, files: Sequence[Path] = (), count: int | None = None) -> Finding:
    """Build a finding; the severity comes from the table.

    Args:
        code: Key of ``CODES``.
        message: What was found.
        action: What denseg will do, or what the user can do.
        files: The files it is about.
        count: How many things it is about; the number of files if empty.

    Returns:
        The finding.
    """
    return Finding(code, CODES[code][0], len(files) if count is None else count, tuple(files), message, action)
