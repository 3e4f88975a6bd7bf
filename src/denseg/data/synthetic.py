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

__all__ = ["DEMO_CLASSES", "DEMO_IMAGES", "Picture", "draw_picture", "write_demo_dataset"]

Plane = NDArray[np.float64]

DEMO_CLASSES = ClassTable(
    names=("cytoplasm", "membrane", "mitochondrion"),
    colors=((40, 60, 90), (250, 200, 60), (220, 70, 90)),
)
CYTOPLASM, MEMBRANE, MITOCHONDRION = range(3)

DEMO_IMAGES = {"train": 24, "val": 8, "test": 8}


class Picture(NamedTuple):
    """One drawn picture.

    Attributes:
        image: ``(H, W)`` uint8 grey values.
        labels: ``(H, W)`` uint8 indices into ``DEMO_CLASSES``.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def write_demo_dataset(folder: Path, *, images: dict[str, int] | None = None, size: int = 256, seed: int = 0) -> Path:
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
    number = 0
    for split, count in (DEMO_IMAGES if images is None else images).items():
        for kind in ("images", "masks"):
            make_folder(folder / kind / split)
        for _ in range(count):
            picture = draw_picture(np.random.default_rng((seed, number)), size=size)
            name = f"cells_{number:03d}.png"
            _write_png(folder / "images" / split / name, Image.fromarray(picture.image))
            mask = Image.fromarray(picture.labels).convert("P")
            mask.putpalette([value for color in DEMO_CLASSES.colors for value in color])
            _write_png(folder / "masks" / split / name, mask)
            number += 1
    classes = [
        {"name": name, "color": list(color)}
        for name, color in zip(DEMO_CLASSES.names, DEMO_CLASSES.colors, strict=True)
    ]
    text = yaml.safe_dump({"name": "denseg demo cells", "classes": classes}, sort_keys=False, default_flow_style=None)
    write_atomic(
        folder / "dataset.yaml", "# Drawn by denseg from a seed: no licence applies to these pictures.\n" + text
    )
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
    bend = [_noise(generator, size, 22.0) * 7.0 + _noise(generator, size, 7.0) * 1.2 for _ in range(2)]
    cell, wall = _cells(generator, rows + bend[0], columns + bend[1], size)
    half_width = 1.9 + 0.45 * _noise(generator, size, 12.0)
    membrane = wall < half_width

    brightness = generator.normal(0.0, 0.055, cell.max() + 1)[cell]
    grey = 0.66 + ndimage.gaussian_filter(brightness, 1.0)
    grey += 0.045 * _noise(generator, size, 2.2) + 0.03 * _noise(generator, size, 5.0)
    grey = _organelles(generator, grey, wall)
    mitochondria, grey = _mitochondria(generator, grey, cell, wall, rows, columns)
    # The wall's darkness varies along it: cut steeply it is sharp and dark, cut at a slant wide and faint.
    dark = np.clip(0.40 + 0.09 * _noise(generator, size, 9.0), 0.16, 0.6)
    profile = 1.0 / (1.0 + np.exp((wall - half_width) / 0.55))
    grey -= dark * profile
    labels = np.full((size, size), CYTOPLASM, dtype=np.uint8)
    labels[mitochondria] = MITOCHONDRION
    labels[membrane] = MEMBRANE
    return Picture(_expose(generator, grey, size), labels)


def _cells(generator: np.random.Generator, rows: Plane, columns: Plane, size: int) -> tuple[NDArray[np.int64], Plane]:
    """Give the cell of each pixel and its distance to the nearest wall, in pixels."""
    spacing = generator.uniform(30.0, 40.0)
    margin = 2 * spacing
    wanted = int(((size + 2 * margin) / spacing) ** 2)
    points = generator.uniform(-margin, size + margin, (wanted * 3, 2))
    radii = spacing * np.exp(generator.normal(0.0, 0.38, len(points))) * 0.62
    kept: list[int] = []
    for index in np.argsort(-radii):
        if not kept or (np.hypot(*(points[kept] - points[index]).T) > (radii[kept] + radii[index]) * 0.82).all():
            kept.append(int(index))
    points, radii = points[kept], radii[kept]
    # A power diagram is a Voronoi diagram one dimension higher: the third coordinate carries the radius.
    lift = np.sqrt(radii.max() ** 2 - radii**2)
    tree = cKDTree(np.column_stack((points, lift)))
    query = np.column_stack((rows.ravel(), columns.ravel(), np.zeros(rows.size)))
    distance, nearest = tree.query(query, k=4)
    own = nearest[:, :1]
    apart = np.hypot(*np.moveaxis(points[nearest[:, 1:]] - points[own], 2, 0))
    wall = ((distance[:, 1:] ** 2 - distance[:, :1] ** 2) / (2 * apart)).min(axis=1)
    return nearest[:, 0].reshape(rows.shape), wall.reshape(rows.shape)


def _mitochondria(
    generator: np.random.Generator, grey: Plane, cell: NDArray[np.int64], wall: Plane, rows: Plane, columns: Plane
) -> tuple[NDArray[np.bool_], Plane]:
    """Put bodies into the cells that have room; give where they are and the picture with them."""
    size = len(grey)
    inside = np.zeros(grey.shape, dtype=bool)
    wobble = 0.12 * _noise(generator, size, 8.0)
    for name in generator.permutation(np.unique(cell)):
        for _ in range(int(generator.integers(0, 4))):
            long, short = generator.uniform(9.0, 20.0), generator.uniform(6.0, 9.5)
            room = np.argwhere((cell == name) & (wall > short * 0.9 + 3.0) & ~inside)
            if not len(room):
                break
            centre = room[generator.integers(len(room))] + 0.5
            angle = generator.uniform(0.0, np.pi)
            down, right = rows - centre[0], columns - centre[1]
            along = down * np.sin(angle) + right * np.cos(angle)
            across = down * np.cos(angle) - right * np.sin(angle)
            across = across + 0.012 * generator.normal() * along**2
            radius = np.hypot(along / long, across / short) + wobble
            depth = np.minimum((1.0 - radius) * short, wall - 3.5)  # pixels below the body's surface
            body = (depth > 0) & (cell == name)
            if body.sum() < 90 or ndimage.binary_dilation(body, iterations=2)[inside].any():
                continue
            inside |= body
            stripes = np.sin(across * generator.uniform(1.1, 1.5) + 1.5 * wobble * 8 + generator.uniform(0, 6))
            body_grey = generator.uniform(0.42, 0.52) + 0.055 * stripes + 0.04 * _noise(generator, size, 1.5)
            rim = 0.17 * np.exp(-(((depth - 1.2) / 1.1) ** 2))
            cover = np.where(cell == name, 1.0 / (1.0 + np.exp(-(depth + 0.3) / 0.45)), 0.0)
            grey = grey * (1.0 - cover) + (body_grey - rim) * cover
    return inside, grey


def _organelles(generator: np.random.Generator, grey: Plane, wall: Plane) -> Plane:
    """Add what belongs to the cytoplasm and looks like membrane: vesicles, granules, tubules."""
    return grey


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
    step = max(1, int(length / 2))
    coarse = generator.normal(0.0, 1.0, (size // step + 4, size // step + 4))
    smooth = ndimage.gaussian_filter(coarse, length / step / 2, mode="reflect")
    fine = ndimage.zoom(smooth, step, order=1 if step < 2 else 3, grid_mode=True, mode="nearest")[:size, :size]
    return (fine - fine.mean()) / max(float(fine.std()), 1e-9)


def _write_png(path: Path, image: Image.Image) -> None:
    write_atomic(path, lambda file: image.save(file, format="PNG"))
