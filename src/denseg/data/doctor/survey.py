# SPDX-License-Identifier: Apache-2.0
"""Look once into every picture and mask of a folder and keep the few numbers that the mask doctor reasons about.

Letters: H and W height and width in pixels, C bands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from denseg.data.doctor.anchors import find_anchors
from denseg.data.doctor.shapes import boundary_share, connected_areas
from denseg.data.folders.inventory import Pair
from denseg.data.reading.decode import glance
from denseg.data.reading.images import ImageInfo, image_info, to_image
from denseg.data.reading.masks import RawMask, to_mask
from denseg.data.reading.parts import decode_image, decode_mask
from denseg.data.reading.stored import DEFAULT_MAX_PIXELS, Header, orient
from denseg.errors import ImageError

__all__ = [
    "FEW_VALUES",
    "MAX_VALUES",
    "THOUSAND",
    "THUMBNAIL",
    "ImageFacts",
    "Look",
    "MaskFacts",
    "PairFacts",
    "look_at",
]

LOSSY = {"JPEG", "MPO", "JPEG2000", "AVIF", "WEBP"}
THUMBNAIL = 16  # pixels in height and width; enough to know a picture again, too few to describe it
SAMPLE = 64  # positions in height and width that intensity statistics are taken from
FLAT_STEP = 4  # neighbours that differ by no more are equal but for JPEG noise
CONTOURS = 2  # thin classes that may lie along the edges of others
MIN_CHANGES = 50  # fewer say nothing about ramps
THOUSAND = 1000  # numbers that are not whole are counted in thousandths
FEW_VALUES = 12  # up to so many values are no sign of blurred masks
MAX_VALUES = 4096  # distinct values kept per mask; a lossy colour mask has tens of thousands
_MIX = np.random.default_rng(0).random(1024)  # tells bands apart in one number
RAMP_LINES = 100  # rows and columns of a mask that are looked at for blurred edges
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
        anchors: ``(n, 3)`` blocks by which overlapping crops are found, see :mod:`~denseg.data.doctor.anchors`.
    """

    info: ImageInfo
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    holes: float
    levels: int
    thumbnail: NDArray[np.uint8]
    anchors: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class MaskFacts:
    """What one mask holds.

    Attributes:
        info: Size and format.
        kind: ``index``, ``palette``, ``color`` or ``float``.
        values: Distinct stored values, ascending; colours as one number ``red << 16 | green << 8 | blue``, numbers that
            are not whole in thousandths.
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
    pair = look.pair
    light = None if pair.window or pair.pages else glance(pair.image, page=pair.image_page, max_pixels=look.max_pixels)
    if light is not None and light[1].mode in {"L", "RGB"}:
        header, picture = light
        side = min(picture.width, SAMPLE), min(picture.height, SAMPLE)
        thin = np.asarray(picture.resize(side, Image.Resampling.NEAREST))
        thin = thin[:, :, None] if thin.ndim == 2 else thin  # (h, w, C)
        if _constant(thin):
            thin = np.asarray(picture).reshape(-1, 1, thin.shape[2])  # perhaps only the sample is constant
        plane = picture.getchannel(1) if picture.mode == "RGB" else picture
        shape = orient(_shrunk(plane), header.orientation)
        return _facts(header, thin, 0.0, shape, find_anchors(np.asarray(plane)))
    decoded = decode_image(pair, max_pixels=look.max_pixels)
    image = to_image(decoded)
    holes = 0.0 if decoded.hole is None else float(decoded.hole.mean())
    if image.dtype.kind == "f":
        finite = np.asarray(np.isfinite(image).all(axis=2))
        holes = max(holes, 1 - float(finite.mean()))
        image = image if bool(finite.all()) else np.where(finite[:, :, None], image, np.float32(0))
    step = (-(-image.shape[0] // SAMPLE), -(-image.shape[1] // SAMPLE))
    thin = image[:: step[0], :: step[1]]
    if _constant(thin):
        thin = image
    middle = np.ascontiguousarray(image[:, :, image.shape[2] // 2])
    plane = Image.fromarray(middle if middle.dtype == np.uint8 else middle.astype(np.float32))
    # The lowest byte of 16 bits is the lively one; floats and windows of one raster have no crops to look for.
    deep = middle.dtype.kind == "f" or pair.window is not None
    anchors = np.zeros((0, 3), np.int64) if deep else find_anchors(middle.astype(np.uint8))
    return _facts(decoded.header, thin, holes, _shrunk(plane), anchors)


def _facts(
    header: Header,
    thin: NDArray[Any],
    holes: float,
    thumbnail: NDArray[np.float32],
    anchors: NDArray[np.int64],
) -> ImageFacts:
    sample: NDArray[np.float64] = np.ascontiguousarray(thin.reshape(-1, thin.shape[2]).T, np.float64)  # (C, n)
    mean = sample.mean(1)
    centred = sample - mean[:, None]
    spread = float(thumbnail.max() - thumbnail.min())
    stretched = np.rint((thumbnail - thumbnail.min()) * (255 / spread if spread > 0 else 0))
    return ImageFacts(
        info=image_info(header),
        low=tuple(map(float, sample.min(1))),
        high=tuple(map(float, sample.max(1))),
        mean=tuple(map(float, mean)),
        std=tuple(map(float, np.sqrt(np.einsum("cn,cn->c", centred, centred) / sample.shape[1]))),
        holes=holes,
        levels=len(set((_MIX[: len(sample)] @ sample[:, ::16]).tolist())),
        thumbnail=stretched.astype(np.uint8),
        anchors=anchors,
    )


def _constant(sample: NDArray[Any]) -> bool:
    """Whether all pixels of ``(h, w, C)`` are equal; most pictures show in one row that they are not."""
    return bool((sample[0] == sample[0, 0]).all()) and bool((sample == sample[0, 0]).all())


def _shrunk(plane: Image.Image) -> NDArray[np.float32]:
    """Average one band to 16x16: a copy of other size or quality looks the same."""
    return np.asarray(plane.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX), np.float32)


def _mask_facts(look: Look) -> MaskFacts:
    path, page, whole = look.pair.mask, look.pair.mask_page, not (look.pair.window or look.pair.layers)
    light = glance(path, page=page, max_pixels=look.max_pixels) if whole and not look.shapes else None
    if light is not None and light[1].mode in {"L", "P"} and light[0].format not in LOSSY:
        counts = np.asarray(light[1].histogram(), np.int64)
        values = np.flatnonzero(counts)
        if len(values) <= FEW_VALUES:
            return _plain_facts(light[0], light[1], values.astype(np.int64), counts[values])
    decoded = decode_mask(look.pair, max_pixels=look.max_pixels)
    raw = to_mask(decoded, path)
    codes = _codes(raw)
    values, counts = _tally(codes if raw.hole is None else codes[~raw.hole])
    lossy = decoded.header.format in LOSSY and len(values) > 1
    many = len(values) > FEW_VALUES and raw.hole is None
    grades = raw.kind == "float"
    flat = _flat_counts(raw, codes, values, FLAT_STEP if lossy else 0) if (lossy or many) and not grades else counts
    measured = look.shapes and raw.hole is None and 1 < len(values) <= 256 and not lossy
    ramps = (many or look.shapes) and raw.kind in {"index", "color"}
    facts = MaskFacts(
        info=image_info(decoded.header),
        kind=raw.kind,
        values=values,
        counts=counts,
        flat=flat,
        palette=raw.palette,
        lossy=lossy,
        transparent=raw.transparent,
        ramps=_ramps(raw, codes) if ramps else -1.0,
        boundary=boundary_share(codes) if measured else -1.0,
        objects=_objects(codes, values) if measured else (),
    )
    if len(values) <= MAX_VALUES:
        return facts
    keep = np.sort(np.argsort(-counts, kind="stable")[:MAX_VALUES])
    return replace(facts, values=values[keep], counts=counts[keep], flat=flat[keep])


def _plain_facts(
    header: Header, picture: Image.Image, values: NDArray[np.int64], counts: NDArray[np.int64]
) -> MaskFacts:
    """Take a mask of few values, grey or palette, from its histogram alone."""
    palette = None
    if picture.mode == "P":
        palette = np.asarray(picture.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    return MaskFacts(image_info(header), "index" if palette is None else "palette", values, counts, counts, palette)


def _codes(raw: RawMask) -> NDArray[Any]:
    """Give ``(H, W)`` numbers; colours as ``red << 16 | green << 8 | blue``, numbers not whole in thousandths."""
    if raw.kind == "float":
        grades: NDArray[np.float64] = np.nan_to_num(raw.values.astype(np.float64), nan=-1.0).clip(-1e6, 1e6)
        return np.rint(grades * THOUSAND).astype(np.int64)
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
    pixels = raw.values if raw.values.ndim == 3 else raw.values[:, :, None]  # (H, W, C)
    rows, columns = (slice(None, None, max(1, side // RAMP_LINES)) for side in pixels.shape[:2])
    changes, passed = 0, []
    for lines, labels in (
        (pixels[rows], codes[rows]),
        (pixels[:, columns].swapaxes(0, 1), codes[:, columns].T),
    ):
        wide = lines.astype(np.int32)
        first, middle, last, code = wide[:, :-2], wide[:, 1:-1], wide[:, 2:], labels[:, 1:-1]
        changed = (np.abs(first - last) >= 2).any(axis=2)
        a, b, c = first[changed], middle[changed], last[changed]  # (n, C)
        inside = ((np.minimum(a, c) <= b) & (b <= np.maximum(a, c))).all(axis=1)
        changes += len(a)
        passed.append(code[changed][inside & (a != b).any(axis=1) & (b != c).any(axis=1)])
    counts = np.sort(np.unique(np.concatenate(passed), return_counts=True)[1])
    return float(counts[:-CONTOURS].sum()) / changes if changes >= MIN_CHANGES else 0.0


def _objects(codes: NDArray[Any], values: NDArray[np.int64]) -> tuple[tuple[int, int, float], ...]:
    """Count the connected areas of each value in a thinned mask, and measure the one that the middle pixel lies in."""
    step = -(-min(codes.shape) // SHAPE_SIDE)
    held, pixels = connected_areas(codes[::step, ::step])
    objects = []
    for value in values.tolist():
        areas = np.sort(pixels[held == value]) * step * step
        if len(areas):
            middle = np.searchsorted(np.cumsum(areas), areas.sum() / 2)
            objects.append((value, len(areas), float(areas[middle])))
    return tuple(objects)
