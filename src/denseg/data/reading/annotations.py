# SPDX-License-Identifier: Apache-2.0
"""Masks drawn from COCO-style JSON: polygons and run lengths, larger objects below smaller ones.

Letters: H and W height and width in pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from denseg.data.reading.stored import Decoded, Header, check_size
from denseg.errors import ImageError

__all__ = ["Annotations", "annotated_pixels", "fill_rings", "load_annotations"]

CROWD = 255  # regions marked as crowds carry no label


@dataclass(frozen=True)
class Annotations:
    """One annotation file.

    Attributes:
        images: ``{"file_name", "height", "width"}`` by image id.
        objects: Annotations by image id.
        categories: ``(id, name)``, ascending by id.
    """

    images: Mapping[int, Mapping[str, Any]]
    objects: Mapping[int, Sequence[Mapping[str, Any]]]
    categories: tuple[tuple[int, str], ...]


def load_annotations(path: Path) -> Annotations:
    """Read an annotation file; the last few are remembered while they do not change.

    Args:
        path: The JSON file.

    Returns:
        Its content.

    Raises:
        ImageError: It is not JSON of this form.
    """
    try:
        state = path.stat()
        return _load(path, state.st_mtime_ns, state.st_size)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ImageError(f"{path}: cannot be read as COCO annotations: {said}; export it again", path=path) from error


def annotated_pixels(path: Path, image_id: int, *, max_pixels: int) -> Decoded:
    """Draw the mask of one picture.

    Args:
        path: The JSON file.
        image_id: Which picture.
        max_pixels: More than this is refused.

    Returns:
        0 for background, 1 for the first category, …, 255 for crowds (65535 where there are 255 categories or more).

    Raises:
        ImageError: The file has no such picture, or an outline that cannot be drawn.
    """
    annotations = load_annotations(path)
    if image_id not in annotations.images:
        raise ImageError(f"{path}: has no picture of id {image_id}", path=path)
    image = annotations.images[image_id]
    height, width = int(image["height"]), int(image["width"])
    check_size(path, width, height, max_pixels)
    many = len(annotations.categories) >= CROWD
    place = {category: index + 1 for index, (category, _) in enumerate(annotations.categories)}
    mask = np.zeros((height, width), np.uint16 if many else np.uint8)
    objects = sorted(annotations.objects.get(image_id, ()), key=lambda item: -float(item.get("area", 0)))
    for item in sorted(objects, key=lambda item: not item.get("iscrowd")):  # crowds first, single objects on top
        value = (65535 if many else CROWD) if item.get("iscrowd") else place[item["category_id"]]
        try:
            region = _region(item["segmentation"], height, width)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise ImageError(
                f"{path}: annotation {item.get('id')} has no outline that can be drawn", path=path
            ) from error
        mask[region] = value
    return Decoded(Header(height, width, 1, mask.dtype.name, "grey", "COCO", "JSON"), mask)


@lru_cache(maxsize=4)
def _load(path: Path, changed: int, size: int) -> Annotations:
    content = json.loads(path.read_text(encoding="utf-8"))
    objects: dict[int, list[Mapping[str, Any]]] = {}
    for item in content["annotations"]:
        objects.setdefault(int(item["image_id"]), []).append(item)
    categories = sorted((int(item["id"]), str(item["name"])) for item in content["categories"])
    images = {int(item["id"]): item for item in content["images"]}
    return Annotations(images, objects, tuple(categories))


def _region(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        runs = _unpack_runs(counts) if isinstance(counts, str) else [int(count) for count in counts]
        size = [int(side) for side in segmentation["size"]]
        if size != [height, width] or sum(runs) != height * width or min(runs, default=0) < 0:
            raise ValueError("run lengths do not fill the picture")
        values = np.repeat(np.arange(len(runs)) % 2, runs).astype(bool)
        return values.reshape(width, height).T  # columns first, as MATLAB stores
    region = np.zeros((height, width), bool)
    for polygon in segmentation:
        points = np.asarray(polygon, np.float64).reshape(-1, 2)
        if len(points) >= 3:
            region |= fill_rings([points], height, width)
    return region


def fill_rings(rings: Sequence[NDArray[np.float64]], height: int, width: int) -> NDArray[np.bool_]:
    """Find the pixels whose centre a polygon encloses: each edge toggles all pixels to its right, row by row.

    Args:
        rings: ``(n, 2)`` x and y each; what lies inside two of them is a hole.
        height: H.
        width: W.

    Returns:
        ``(H, W)``.
    """
    toggles = np.zeros((height, width + 1), np.int32)
    edges = (edge for points in rings for edge in zip(points, np.roll(points, -1, axis=0), strict=True))
    for (x0, y0), (x1, y1) in edges:
        low, high = sorted((y0, y1))
        rows = np.arange(max(0, int(np.ceil(low - 0.5))), min(height, int(np.ceil(high - 0.5))))
        if len(rows):
            crossing = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            toggles[rows, np.clip(np.ceil(crossing - 0.5), 0, width).astype(int)] += 1
    inside: NDArray[np.bool_] = np.cumsum(toggles, axis=1)[:, :width] % 2 == 1
    return inside


def _unpack_runs(text: str) -> list[int]:
    """Unpack COCO's compressed run lengths: 6 bits a character, each run but the first three relative to two before."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError("no run lengths")
        value |= (bits & 0x1F) << (5 * shift)
        shift += 1
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << (5 * shift)
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return runs
