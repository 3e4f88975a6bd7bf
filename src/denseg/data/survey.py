# SPDX-License-Identifier: Apache-2.0
"""Look once into every picture and mask of a folder and keep the few numbers that the mask doctor reasons about.

Letters: H and W height and width in pixels, C bands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from denseg.data.decode import decode
from denseg.data.folder import Pair
from denseg.data.images import ImageInfo, image_info, to_image
from denseg.data.masks import RawMask, to_mask
from denseg.data.stored import DEFAULT_MAX_PIXELS
from denseg.errors import ImageError

__all__ = ["FEW_VALUES", "THUMBNAIL", "ImageFacts", "Look", "MaskFacts", "PairFacts", "look_at"]

LOSSY = {"JPEG", "MPO", "JPEG2000", "AVIF", "WEBP"}
THUMBNAIL = 16  # pixels in height and width; enough to know a picture again, too few to describe it
SAMPLE = 64  # positions in height and width that intensity statistics are taken from
FLAT_STEP = 4  # neighbours that differ by no more are equal but for JPEG noise
CONTOURS = 2  # thin classes that may lie along the edges of others
MIN_CHANGES = 50  # fewer say nothing about ramps
FEW_VALUES = 12  # up to so many values are no sign of blurred masks
MAX_VALUES = 4096  # distinct values kept per mask; a lossy colour mask has tens of thousands
_MIX = np.random.default_rng(0).random(1024)  # tells bands apart in one number
SHAPE_SIDE = 256  # masks are thinned out to about this before objects are counted


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What one picture holds.

    Attributes:
        info: Size, bands, format.
        low: Smallest finite value of each band, of a regular sample of pixels.
        high: Largest finite value of each band, of the sample.
        mean: Mean of each band, of the sample.
        std: Standard deviation of each band, of the sample.
        holes: Share of pixels that are not finite or declared to hold no data.
        levels: Distinct colours in a small part of the sample: few for a mask that was taken for a picture.
        thumbnail: ``(16, 16)`` uint8 grey picture, stretched to its own range; all zero for a constant one.
    """

    info: ImageInfo
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    holes: float
    levels: int
    thumbnail: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class MaskFacts:
    """What one mask holds.

    Attributes:
        info: Size and format.
        kind: ``index``, ``palette``, ``color`` or ``float``.
        values: Distinct stored values, ascending; colours as one number ``red << 16 | green << 8 | blue``.
        counts: Pixels of each.
        flat: Those of them whose four neighbours are about equal: an edge that JPEG or a resize made soft has none.
        palette: ``(N, 3)`` colours of the indices, for ``palette``.
        lossy: Whether the file's format changes values, as JPEG does.
        transparent: Share of pixels that are not opaque.
        ramps: Share of the changes between two values that pass through others between them: about 0 in a mask as
            drawn, a fifth and more after a smooth resize; negative where not measured.
        boundary: Share of pixels with another value right or below; negative where not measured.
        objects: ``(value, connected areas, size of the area that the middle pixel lies in)``; empty where not measured.
    """

    info: ImageInfo
    kind: str
    values: NDArray[np.int64]
    counts: NDArray[np.int64]
    flat: NDArray[np.int64]
    palette: NDArray[np.uint8] | None = None
    lossy: bool = False
    transparent: float = 0.0
    ramps: float = -1.0
    boundary: float = -1.0
    objects: tuple[tuple[int, int, float], ...] = ()


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


@dataclass(frozen=True, slots=True)
class Look:
    """One task: which pair to read, and how closely.

    Attributes:
        pair: The pair.
        max_pixels: Larger files are refused.
        shapes: Whether to measure boundaries and objects too.
    """

    pair: Pair
    max_pixels: int = DEFAULT_MAX_PIXELS
    shapes: bool = False


def look_at(look: Look) -> PairFacts:
    """Read both files of a pair.

    Args:
        look: Which, and how closely.

    Returns:
        The facts.
    """
    image = mask = None
    image_fault = mask_fault = ""
    try:
        image = _image_facts(look)
    except ImageError as error:
        image_fault = str(error)
    try:
        mask = _mask_facts(look)
    except ImageError as error:
        mask_fault = str(error)
    return PairFacts(image, mask, image_fault, mask_fault)


def _image_facts(look: Look) -> ImageFacts:
    decoded = decode(look.pair.image, page=look.pair.image_page, max_pixels=look.max_pixels)
    image = to_image(decoded)
    holes = 0.0 if decoded.hole is None else float(decoded.hole.mean())
    if image.dtype.kind == "f":
        finite = np.asarray(np.isfinite(image).all(axis=2))
        holes = max(holes, 1 - float(finite.mean()))
        image = image if bool(finite.all()) else np.where(finite[:, :, None], image, np.float32(0))
    step = (-(-image.shape[0] // SAMPLE), -(-image.shape[1] // SAMPLE))
    thin = image[:: step[0], :: step[1]].reshape(-1, image.shape[2])  # (H, W, C) -> (n, C)
    sample = np.ascontiguousarray(thin.T, np.float64)  # (C, n)
    low, high, mean = sample.min(1), sample.max(1), sample.mean(1)
    if bool((low == high).all()) and len(image):  # perhaps only the sample is constant
        low, high = image.min((0, 1)), image.max((0, 1))
    return ImageFacts(
        info=image_info(decoded.header),
        low=tuple(map(float, low)),
        high=tuple(map(float, high)),
        mean=tuple(map(float, mean)),
        std=tuple(map(float, np.sqrt(((sample - mean[:, None]) ** 2).mean(1)))),
        holes=holes,
        levels=len(np.unique(_MIX[: len(sample)] @ sample[:, ::4])),
        thumbnail=_thumbnail(image),
    )


def _thumbnail(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Average the middle band to 16x16 and stretch: a copy of other size, quality or exposure looks the same."""
    plane = np.ascontiguousarray(image[:, :, image.shape[2] // 2])
    plane = plane if plane.dtype == np.uint8 else plane.astype(np.float32)
    small = Image.fromarray(plane).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    grey = np.asarray(small, np.float32)
    spread = float(grey.max() - grey.min())
    stretched: NDArray[np.uint8] = np.rint((grey - grey.min()) * (255 / spread if spread > 0 else 0)).astype(np.uint8)
    return stretched


def _mask_facts(look: Look) -> MaskFacts:
    path = look.pair.mask
    decoded = decode(path, page=look.pair.mask_page, max_pixels=look.max_pixels)
    raw = to_mask(decoded, path)
    codes = _codes(raw)
    values, counts = _tally(codes)
    lossy = decoded.header.format in LOSSY and len(values) > 1
    many = len(values) > FEW_VALUES
    flat = _flat_counts(raw, codes, values, FLAT_STEP if lossy else 0) if lossy or many else counts
    boundary = -1.0
    objects: tuple[tuple[int, int, float], ...] = ()
    if look.shapes and 1 < len(values) <= 256 and not lossy:
        boundary, objects = _shapes(codes, values)
    if len(values) > MAX_VALUES:
        keep = np.sort(np.argsort(-counts, kind="stable")[:MAX_VALUES])
        values, counts, flat = values[keep], counts[keep], flat[keep]
    return MaskFacts(
        info=image_info(decoded.header),
        kind=raw.kind,
        values=values,
        counts=counts,
        flat=flat,
        palette=raw.palette,
        lossy=lossy,
        transparent=raw.transparent,
        ramps=_ramps(raw, codes) if (many or look.shapes) and raw.kind in {"index", "color"} else -1.0,
        boundary=boundary,
        objects=objects,
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
    if codes.dtype == np.uint8:
        counts = np.asarray(Image.fromarray(codes).histogram(), np.int64)  # twice as fast as bincount, which widens
    elif codes.dtype == np.uint16:
        counts = np.bincount(codes.reshape(-1))
    else:
        present, counts = np.unique(codes, return_counts=True)
        return present.astype(np.int64), counts.astype(np.int64)
    present = np.flatnonzero(counts)
    return present.astype(np.int64), counts[present].astype(np.int64)


def _flat_counts(raw: RawMask, codes: NDArray[Any], values: NDArray[np.int64], step: int) -> NDArray[np.int64]:
    """Count the pixels of each value whose four neighbours are nearly equal; the outermost pixels are left out."""
    wide = raw.values.astype(np.int32)
    wide = wide[:, :, None] if wide.ndim == 2 else wide
    inner = wide[1:-1, 1:-1]
    flat = np.ones(inner.shape[:2], bool)
    for shifted in (wide[:-2, 1:-1], wide[2:, 1:-1], wide[1:-1, :-2], wide[1:-1, 2:]):
        flat &= (np.abs(inner - shifted) <= step).all(axis=2)
    held = np.searchsorted(values, codes[1:-1, 1:-1][flat])
    return np.bincount(held, minlength=len(values)).astype(np.int64)


def _ramps(raw: RawMask, codes: NDArray[Any]) -> float:
    """Measure how often a change from one value to another passes through one between them.

    The two values that are passed through most often do not count: a thin contour may be a class of its own.
    """
    wide = raw.values.astype(np.int32)
    wide = wide[:, :, None] if wide.ndim == 2 else wide  # (H, W, C)
    changes, passed = 0, []
    for first, middle, last, code in (
        (wide[:, :-2], wide[:, 1:-1], wide[:, 2:], codes[:, 1:-1]),
        (wide[:-2], wide[1:-1], wide[2:], codes[1:-1]),
    ):
        changed = (np.abs(first - last) >= 2).any(axis=2)
        a, b, c = first[changed], middle[changed], last[changed]  # (n, C)
        inside = ((np.minimum(a, c) <= b) & (b <= np.maximum(a, c))).all(axis=1)
        changes += len(a)
        passed.append(code[changed][inside & (a != b).any(axis=1) & (b != c).any(axis=1)])
    counts = np.sort(np.unique(np.concatenate(passed), return_counts=True)[1])
    return float(counts[:-CONTOURS].sum()) / changes if changes >= MIN_CHANGES else 0.0


def _shapes(codes: NDArray[Any], values: NDArray[np.int64]) -> tuple[float, tuple[tuple[int, int, float], ...]]:
    """Measure the share of boundary pixels, and how many connected areas of which size each value has."""
    from scipy import ndimage

    edge = np.zeros(codes.shape, bool)
    edge[:, :-1] |= codes[:, :-1] != codes[:, 1:]
    edge[:-1] |= codes[:-1] != codes[1:]
    step = -(-min(codes.shape) // SHAPE_SIDE)
    thin = codes[::step, ::step]
    objects = []
    for value in values.tolist():
        areas, count = ndimage.label(thin == value)
        if count:
            pixels = np.sort(np.bincount(areas.reshape(-1))[1:]) * step * step
            middle = np.searchsorted(np.cumsum(pixels), pixels.sum() / 2)
            objects.append((value, int(count), float(pixels[middle])))
    return float(edge.mean()), tuple(objects)
