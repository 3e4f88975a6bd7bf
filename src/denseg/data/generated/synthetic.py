# SPDX-License-Identifier: Apache-2.0
"""Pictures that look like electron micrographs of brain tissue, with exact masks, from a seed.

Cells are the regions of a power diagram in bent space, so they touch and their walls curve. Walls carry a thin dark
membrane; some cells hold mitochondria: grey bodies with a dark double wall and stripes. Vesicles, granules and
microtubules are as dark as the membrane but belong to the cytoplasm, cells differ in brightness, focus and contrast
differ over the picture and between pictures, and there is noise. So a pixel's grey value does not tell its class; its
surroundings do.

Shape letters: H and W height and width, N cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree

from denseg.errors import UsageError
from denseg.files import make_folder, write_atomic
from denseg.types import ClassTable

__all__ = ["DEMO_CLASSES", "DEMO_IMAGES", "Picture", "draw_picture", "write_demo_dataset", "write_drawn"]

Plane = NDArray[np.float64]

DEMO_CLASSES = ClassTable(
    names=("cytoplasm", "membrane", "mitochondrion"),
    colors=((40, 60, 90), (250, 200, 60), (220, 70, 90)),
)
CYTOPLASM, MEMBRANE, MITOCHONDRION = range(3)

DEMO_IMAGES = {"train": 40, "val": 6, "test": 10}


class Picture(NamedTuple):
    """One drawn picture.

    Attributes:
        image: ``(H, W)`` uint8 grey values.
        labels: ``(H, W)`` uint8 indices into ``DEMO_CLASSES``.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def write_demo_dataset(
    folder: Path, *, images: Mapping[str, int] | None = None, size: int = 256, seed: int = 0
) -> Path:
    """Write the demo data set as an ordinary folder: ``images/`` and ``masks/`` by split, and ``dataset.yaml``.

    Args:
        folder: Where; made if it is not there. Files of the same names are replaced.
        images: How many pictures each split gets; ``DEMO_IMAGES`` where ``None``.
        size: Height and width of each picture, in pixels.
        seed: Another seed gives other pictures.

    Returns:
        The folder.

    Raises:
        OutputError: A file or folder cannot be written.
        UsageError: The size is too small to hold cells.
    """
    counts = DEMO_IMAGES if images is None else images
    splits = [split for split, count in counts.items() for _ in range(count)]
    drawn = (
        (split, f"cells_{number:03d}", *draw_picture(np.random.default_rng((seed, number)), size=size))
        for number, split in enumerate(splits)
    )
    comment = "Drawn by denseg from a seed: no licence applies to these pictures."
    return write_drawn(folder, drawn, counts, classes=DEMO_CLASSES, name="denseg demo cells", comment=comment)


def write_drawn(
    folder: Path,
    pictures: Iterable[tuple[str, str, NDArray[np.uint8], NDArray[np.uint8]]],
    splits: Iterable[str],
    *,
    classes: ClassTable,
    name: str,
    comment: str,
) -> Path:
    """Write drawn pictures as an ordinary folder.

    Args:
        folder: Where; made if it is not there. Files of the same names are replaced.
        pictures: Split, stem, ``(H, W)`` grey values and ``(H, W)`` labels of each.
        splits: Names of the splits; their folders are made even where they stay empty.
        classes: The classes, their colours the masks' palette.
        name: Of the data set.
        comment: First line of ``dataset.yaml``.

    Returns:
        The folder.

    Raises:
        OutputError: A file or folder cannot be written.
    """
    for split in splits:
        for kind in ("images", "masks"):
            make_folder(folder / kind / split)
    for split, stem, image, labels in pictures:
        _write_png(folder / "images" / split / f"{stem}.png", Image.fromarray(image))
        mask = Image.fromarray(labels).convert("P")
        mask.putpalette([value for color in classes.colors for value in color])
        _write_png(folder / "masks" / split / f"{stem}.png", mask)
    named = zip(classes.names, classes.colors, strict=True)
    rows = [{"name": label, "color": list(color)} for label, color in named]
    text = yaml.safe_dump({"name": name, "classes": rows}, sort_keys=False, default_flow_style=None)
    write_atomic(folder / "dataset.yaml", f"# {comment}\n{text}")
    return folder


def draw_picture(generator: np.random.Generator, *, size: int = 256) -> Picture:
    """Draw one picture of touching cells.

    Args:
        generator: Decides everything about the picture.
        size: Height and width, in pixels; at least 64.

    Returns:
        Grey values and labels.

    Raises:
        UsageError: The size is too small to hold cells.
    """
    if size < 64:
        raise UsageError(f"a demo picture needs at least 64 pixels a side, got {size}")
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float64) + 0.5
    bend = [_noise(generator, size, 24.0) * 6.0 + _noise(generator, size, 8.0) * 1.1 for _ in range(2)]
    cell, wall = _cells(generator, rows + bend[0], columns + bend[1], size)
    half_width = np.clip(1.9 + 0.3 * _noise(generator, size, 14.0), 1.4, 2.8)

    grey = 0.67 + ndimage.gaussian_filter(generator.normal(0.0, 0.05, cell.max() + 1)[cell], 1.0)
    grey += 0.04 * _noise(generator, size, 2.2) + 0.025 * _noise(generator, size, 6.0)
    _add_organelles(generator, grey, cell, wall)
    bodies = _add_mitochondria(generator, grey, cell, wall)
    # The wall's darkness varies along it: cut steeply it is sharp and dark, cut at a slant faint.
    darkness = np.clip(0.36 + 0.09 * _noise(generator, size, 10.0), 0.14, 0.6)
    grey -= darkness * _inside(half_width - wall, 0.5)
    labels = np.where(bodies, MITOCHONDRION, CYTOPLASM).astype(np.uint8)
    labels[wall < half_width] = MEMBRANE
    return Picture(_expose(generator, grey, size), labels)


def _cells(generator: np.random.Generator, rows: Plane, columns: Plane, size: int) -> tuple[NDArray[np.int64], Plane]:
    """Give the cell of each pixel and its distance to the nearest wall, in pixels."""
    spacing = float(generator.uniform(30.0, 38.0))
    margin = 2 * spacing
    tries = 3 * int(((size + 2 * margin) / spacing) ** 2)
    points: Plane = generator.uniform(-margin, size + margin, (tries, 2))
    radii: Plane = np.minimum(0.6 * spacing * np.exp(generator.normal(0.0, 0.36, tries)), 1.3 * spacing)
    kept: list[int] = []
    for index in np.argsort(-radii).tolist():
        apart = np.hypot(*(points[kept] - points[index]).T)
        if bool((apart > 0.8 * (radii[kept] + radii[index])).all()):
            kept.append(index)
    points, radii = points[kept], radii[kept]
    # A power diagram is a slice of a Voronoi diagram of one dimension more: the third coordinate carries the radius.
    tree = cKDTree(np.column_stack((points, np.sqrt(radii.max() ** 2 - radii**2))))
    found = tree.query(np.column_stack((rows.ravel(), columns.ravel(), np.zeros(rows.size))), k=3)
    distance, nearest = np.asarray(found[0]), np.asarray(found[1])
    away = np.linalg.norm(points[nearest[:, 1:]] - points[nearest[:, :1]], axis=2)
    power = ((distance[:, 1:] ** 2 - distance[:, :1] ** 2) / (2 * away)).min(axis=1).reshape(rows.shape)
    # Bent space stretches distances; over its own slope the field measures pixels again.
    slope = ndimage.gaussian_filter(np.hypot(*np.gradient(power)), 1.5)
    return nearest[:, 0].reshape(rows.shape), power / np.clip(slope, 0.35, 3.0)


def _add_mitochondria(
    generator: np.random.Generator, grey: Plane, cell: NDArray[np.int64], wall: Plane
) -> NDArray[np.bool_]:
    """Draw bodies into the cells that have room for them; give where they are."""
    size = len(grey)
    bodies = np.zeros(grey.shape, dtype=bool)
    wobble, grain = 0.11 * _noise(generator, size, 8.0), 0.035 * _noise(generator, size, 1.5)
    for name in generator.permutation(np.unique(cell)).tolist():
        mine = cell == name
        for _ in range(int(generator.integers(0, 4))):
            length, width = generator.uniform(9.0, 20.0), generator.uniform(5.5, 9.5)
            room = np.argwhere(mine & (wall > 0.8 * width + 3.0) & ~bodies)
            if not len(room):
                break
            middle = room[int(generator.integers(len(room)))].tolist()
            window = _window(middle, 30, size)
            rows, columns = np.ogrid[window]
            angle, stripe, turn = generator.uniform(0, np.pi), generator.uniform(1.0, 1.4), generator.uniform(0, 6)
            down, right = rows - middle[0], columns - middle[1]
            along = down * np.sin(angle) + right * np.cos(angle)
            across = down * np.cos(angle) - right * np.sin(angle) + 0.014 * generator.normal() * along**2
            radius = np.hypot(along / length, across / width) + wobble[window]
            depth = np.minimum((1.0 - radius) * width, wall[window] - 3.5)  # pixels below the body's surface
            body = (depth > 0) & mine[window]
            near = ndimage.binary_dilation(body, iterations=3)
            if body.sum() < 80 or bool(bodies[window][near].any()):
                continue
            bodies[window] |= body
            folds = 0.05 * np.sin(stripe * across + 10.0 * wobble[window] + turn)
            rim = 0.16 * np.exp(-(((depth - 1.1) / 1.0) ** 2))
            drawn = generator.uniform(0.43, 0.54) + folds + grain[window] - rim
            cover = _inside(depth, 0.45) * mine[window]
            grey[window] = grey[window] * (1.0 - cover) + drawn * cover
    return bodies


def _add_organelles(generator: np.random.Generator, grey: Plane, cell: NDArray[np.int64], wall: Plane) -> None:
    """Draw what belongs to the cytoplasm and is as dark as membrane: vesicles, granules, reticulum."""
    size = len(grey)
    crowd = np.exp(generator.normal(-0.6, 1.1, cell.max() + 1))[cell]  # vesicles crowd in some cells
    chance = np.where(wall > 5.0, crowd * (1.0 + np.maximum(_noise(generator, size, 18.0), 0.0)), 0.0)
    places = generator.random(grey.shape) < 0.0035 * chance
    for row, column in np.argwhere(places).tolist():
        window = _window((row, column), 7, size)
        rows, columns = np.ogrid[window]
        radius = np.hypot(rows - row + generator.uniform(-0.5, 0.5), columns - column + generator.uniform(-0.5, 0.5))
        ring, darkness = generator.uniform(0.0, 3.4), generator.uniform(0.12, 0.3)  # a ring without lumen is a granule
        grey[window] -= darkness * np.exp(-(((radius - ring) / 0.85) ** 2)) - 0.03 * _inside(ring - radius, 0.4)
    lines = np.zeros_like(grey)
    starts = np.argwhere((wall > 8.0) & (generator.random(grey.shape) < 0.0012))
    for start in starts:
        steps = int(generator.integers(20, 70))
        heading = generator.uniform(0, 2 * np.pi) + np.cumsum(generator.normal(0.0, 0.09, steps))
        path = start + 0.5 * np.cumsum(np.column_stack((np.sin(heading), np.cos(heading))), axis=0)
        at = np.clip(np.rint(path).astype(np.int64), 0, size - 1)
        lines[at[:, 0], at[:, 1]] = generator.uniform(0.5, 1.0)
    grey -= 0.5 * ndimage.gaussian_filter(lines, 0.8) * _inside(wall - 5.0, 0.5)


def _expose(generator: np.random.Generator, grey: Plane, size: int) -> NDArray[np.uint8]:
    """Photograph: focus, uneven exposure, contrast, shot noise."""
    grey = ndimage.gaussian_filter(grey, generator.uniform(0.5, 0.9))
    grey = grey + 0.05 * _noise(generator, size, 60.0)
    grey = 0.55 + (grey - 0.55) * generator.uniform(0.8, 1.15) + generator.normal(0.0, 0.04)
    grey = grey + generator.normal(0.0, 1.0, grey.shape) * generator.uniform(0.035, 0.06)
    grey = ndimage.gaussian_filter(grey, 0.35)
    return np.clip(np.rint(grey * 255), 0, 255).astype(np.uint8)


def _noise(generator: np.random.Generator, size: int, length: float) -> Plane:
    """Give smooth noise of mean 0 and standard deviation 1 that varies over ``length`` pixels."""
    step = max(1, int(length / 3))
    coarse = generator.normal(0.0, 1.0, (size // step + 4, size // step + 4))
    smooth: Plane = ndimage.gaussian_filter(coarse, length / step / 2)
    if step > 1:
        smooth = ndimage.zoom(smooth, step, order=2, grid_mode=True, mode="nearest")
    fine = smooth[:size, :size]
    return np.asarray((fine - fine.mean()) / max(float(fine.std()), 1e-9))


def _inside(depth: Plane, softness: float) -> Plane:
    """Turn a signed depth in pixels into a cover of 0..1 with a soft edge."""
    return np.asarray(0.5 + 0.5 * np.tanh(depth / (2 * softness)))


def _window(middle: Sequence[int], reach: int, size: int) -> tuple[slice, slice]:
    """Give the square around a pixel, cut at the picture's edge."""
    first, second = (slice(max(0, at - reach), min(size, at + reach + 1)) for at in middle)
    return first, second


def _write_png(path: Path, image: Image.Image) -> None:
    write_atomic(path, lambda file: image.save(file, format="PNG"))
