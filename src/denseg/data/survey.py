# SPDX-License-Identifier: Apache-2.0
"""Look once into every picture and mask of a folder and keep the few numbers that the mask doctor reasons about.

Letters: H and W height and width in pixels, C bands.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from denseg.data.decode import decode
from denseg.data.folder import Pair
from denseg.data.images import ImageInfo, image_info, to_image
from denseg.data.masks import RawMask, to_mask
from denseg.errors import ImageError

__all__ = ["ImageFacts", "MaskFacts", "PairFacts", "look_at"]

LOSSY = {"JPEG", "MPO", "JPEG2000", "AVIF", "WEBP"}
FLAT_STEP = 4  # neighbours that differ by no more are equal but for noise
FEW_VALUES = 12  # up to so many values are no sign of blurred masks
MAX_VALUES = 4096  # distinct values kept per mask; a lossy colour mask has tens of thousands


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What one picture holds.

    Attributes:
        info: Size, bands, format.
        digest: SHA-256 of the file's bytes.
        low: Smallest finite value of each band.
        high: Largest finite value of each band.
        mean: Mean of each band over finite pixels.
        std: Standard deviation of each band over finite pixels.
        holes: Share of pixels that are not finite.
    """

    info: ImageInfo
    digest: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    holes: float


@dataclass(frozen=True, slots=True)
class MaskFacts:
    """What one mask holds.

    Attributes:
        info: Size and format.
        digest: SHA-256 of the file's bytes.
        kind: ``index``, ``palette``, ``color`` or ``float``.
        dtype: Of the stored values.
        values: Distinct stored values, ascending; colours as one number ``red << 16 | green << 8 | blue``.
        counts: Pixels of each.
        flat: Those of them whose four neighbours are about equal: an edge that JPEG or a resize made soft has none.
        cut: Whether there were more than ``MAX_VALUES``; the rarest are left out then.
        palette: ``(N, 3)`` colours of the indices, for ``palette``.
        lossy: Whether the format itself changes values: JPEG and its like.
        transparent: Share of pixels that are not opaque.
    """

    info: ImageInfo
    digest: str
    kind: str
    dtype: str
    values: NDArray[np.int64]
    counts: NDArray[np.int64]
    flat: NDArray[np.int64]
    cut: bool
    palette: NDArray[np.uint8] | None
    lossy: bool
    transparent: float


@dataclass(frozen=True, slots=True)
class PairFacts:
    """What one pair holds; where a file cannot be read, the reason stands in place of the facts.

    Attributes:
        image: The picture.
        mask: The mask.
        image_fault: Why the picture cannot be read; empty where it can.
        mask_fault: Why the mask cannot be read; empty where it can.
    """

    image: ImageFacts | None
    mask: MaskFacts | None
    image_fault: str = ""
    mask_fault: str = ""


def look_at(pair: Pair, max_pixels: int) -> PairFacts:
    """Read both files of a pair.

    Args:
        pair: The pair.
        max_pixels: Larger files are refused.

    Returns:
        The facts.
    """
    image = mask = None
    image_fault = mask_fault = ""
    try:
        image = _image_facts(pair.image, pair.image_page, max_pixels)
    except ImageError as error:
        image_fault = str(error)
    try:
        mask = _mask_facts(pair.mask, pair.mask_page, max_pixels)
    except ImageError as error:
        mask_fault = str(error)
    return PairFacts(image, mask, image_fault, mask_fault)


def _image_facts(path: Path, page: int, max_pixels: int) -> ImageFacts:
    decoded = decode(path, page=page, max_pixels=max_pixels)
    image = to_image(decoded)
    flat = image.reshape(-1, image.shape[2])  # (H, W, C) -> (H * W, C)
    holes = 0.0
    if flat.dtype.kind == "f":
        finite = np.isfinite(flat).all(axis=1)
        holes = 1 - float(finite.mean())
        flat = flat[finite]
    low, high, mean, std = _spread(flat)
    return ImageFacts(image_info(decoded.header), _digest(path, page), low, high, mean, std, holes)


def _spread(flat: NDArray[Any]) -> tuple[tuple[float, ...], ...]:
    if not len(flat):
        return ((0.0,) * flat.shape[1],) * 4
    if flat.dtype == np.uint8:
        rows = []
        for band in range(flat.shape[1]):
            counts = np.bincount(flat[:, band], minlength=256)
            present = np.flatnonzero(counts)
            mean = float(counts @ np.arange(256)) / len(flat)
            spread = float(counts @ (np.arange(256) - mean) ** 2) / len(flat)
            rows.append((float(present[0]), float(present[-1]), mean, spread**0.5))
        low, high, means, stds = zip(*rows, strict=True)
        return low, high, means, stds
    return (
        tuple(map(float, flat.min(0))),
        tuple(map(float, flat.max(0))),
        tuple(map(float, flat.mean(0, dtype=np.float64))),
        tuple(map(float, flat.std(0, dtype=np.float64))),
    )


def _mask_facts(path: Path, page: int, max_pixels: int) -> MaskFacts:
    decoded = decode(path, page=page, max_pixels=max_pixels)
    raw = to_mask(decoded, path)
    codes = _codes(raw)
    values, counts = _tally(codes)
    lossy = decoded.header.format in LOSSY
    flat = _flat_counts(raw, codes, values) if lossy or len(values) > FEW_VALUES else counts
    cut = len(values) > MAX_VALUES
    if cut:
        keep = np.sort(np.argsort(-counts, kind="stable")[:MAX_VALUES])
        values, counts, flat = values[keep], counts[keep], flat[keep]
    return MaskFacts(
        info=image_info(decoded.header),
        digest=_digest(path, page),
        kind=raw.kind,
        dtype=decoded.header.dtype,
        values=values,
        counts=counts,
        flat=flat,
        cut=cut,
        palette=raw.palette,
        lossy=lossy and len(values) > 1,
        transparent=raw.transparent,
    )


def _codes(raw: RawMask) -> NDArray[Any]:
    """Give ``(H, W)`` numbers; colours as ``red << 16 | green << 8 | blue``."""
    if raw.kind == "float":
        return np.zeros((0, 0), np.int64)
    if raw.kind != "color":
        return raw.values
    wide = raw.values.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]  # (H, W, 3) -> (H, W)


def _tally(codes: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if codes.dtype in (np.uint8, np.uint16):
        counts = np.bincount(codes.reshape(-1))
        present = np.flatnonzero(counts)
        return present.astype(np.int64), counts[present].astype(np.int64)
    present, counts = np.unique(codes, return_counts=True)
    return present.astype(np.int64), counts.astype(np.int64)


def _flat_counts(raw: RawMask, codes: NDArray[Any], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the pixels of each value whose four neighbours are nearly equal; the outermost pixels are left out."""
    wide = raw.values.astype(np.int32)
    wide = wide[:, :, None] if wide.ndim == 2 else wide
    inner = wide[1:-1, 1:-1]
    flat = np.ones(inner.shape[:2], bool)
    for shifted in (wide[:-2, 1:-1], wide[2:, 1:-1], wide[1:-1, :-2], wide[1:-1, 2:]):
        flat &= (np.abs(inner - shifted) <= FLAT_STEP).all(axis=2)
    held = np.searchsorted(values, codes[1:-1, 1:-1][flat])
    return np.bincount(held, minlength=len(values)).astype(np.int64)


def _digest(path: Path, page: int) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{digest}#{page}" if page else digest
