# SPDX-License-Identifier: Apache-2.0
"""Pictures of set difficulty: the size of objects, gaps, holes, and how far away the cue lies that tells a class.

Discs of one texture lie alone or in pairs on a plain ground. A bright or a dark spot, ``cue_distance`` pixels from the
border of the object (of both objects of a pair), tells its class; nothing inside the object does. So a network that
sees less far than that can find objects but not name them, one that blurs merges pairs and fills holes, and one whose
context differs from position to position breaks objects into pieces. Spots belong to the ground.

Letters: H and W height and width in pixels, N groups (an object, or a pair).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from denseg.data.generated.synthetic import write_drawn
from denseg.errors import UsageError
from denseg.types import ClassTable

__all__ = ["SCENE_CLASSES", "Group", "Scene", "SceneOptions", "draw_scene", "write_scene_dataset"]

Plane = NDArray[np.float64]

SCENE_CLASSES = ClassTable(names=("ground", "bright", "dark"), colors=((70, 70, 70), (240, 200, 60), (60, 90, 220)))
GROUND, BRIGHT, DARK = range(3)

_SPOT = 3.0
"""Radius of a cue, in pixels."""

_APART = 3.0
"""Pixels of ground that at least lie between things of different groups."""

_TRIES = 400


@dataclass(frozen=True)
class SceneOptions:
    """What a picture is like; lengths in pixels.

    Attributes:
        size: Height and width of the picture.
        object_size: Diameter of an object.
        gap: Ground between the two objects of a pair; 0: objects lie alone.
        hole: Diameter of the hole in the middle of each object; 0: none.
        cue_distance: From the border of the object to the middle of the spot that decides its class; 0: the object
            itself is bright or dark.
        groups: Most objects or pairs in a picture.
        noise: Standard deviation of the grey values, which lie in 0..1.
    """

    size: int = 128
    object_size: float = 26.0
    gap: float = 5.0
    hole: float = 7.0
    cue_distance: float = 14.0
    groups: int = 4
    noise: float = 0.06

    def __post_init__(self) -> None:
        if self.object_size < 4 or self.groups < 1 or min(self.gap, self.hole, self.cue_distance, self.noise) < 0:
            raise UsageError(f"a scene needs objects of at least 4 pixels, a group, and no negative length; got {self}")
        if self.hole > self.object_size - 4:
            raise UsageError(f"a hole of {self.hole:g} pixels leaves nothing of an object of {self.object_size:g}")
        nearest = max(_SPOT + 1, self.gap / 2 + 1 if self.gap else 0.0)
        if 0 < self.cue_distance < nearest:
            raise UsageError(
                f"a cue that touches neither object lies at least {nearest:g} pixels away, got {self.cue_distance:g}; "
                "0 puts it into the object"
            )
        if self.size < 2 * self.reach:
            raise UsageError(f"such a group needs a picture of {math.ceil(2 * self.reach)} pixels, got {self.size}")

    @property
    def reach(self) -> float:
        """Radius of the circle that holds a group, in pixels."""
        return max(abs(self.arm) + self.object_size / 2, abs(self.height) + _SPOT) + 1

    @property
    def arm(self) -> float:
        """From the middle of a group to the middle of each of its objects, in pixels."""
        return (self.object_size + self.gap) / 2 if self.gap else 0.0

    @property
    def height(self) -> float:
        """From the middle of a group to its cue, in pixels, at a right angle to the pair; 0 without cue."""
        if not self.cue_distance:
            return 0.0
        return math.sqrt((self.object_size / 2 + self.cue_distance) ** 2 - self.arm**2)


class Group(NamedTuple):
    """One object, or a pair of one class.

    Attributes:
        label: Index into ``SCENE_CLASSES``.
        centers: Middle of each object, ``(row, column)`` in pixels.
        cue: Middle of the spot; ``None`` where the object itself is bright or dark.
    """

    label: int
    centers: tuple[tuple[float, float], ...]
    cue: tuple[float, float] | None


class Scene(NamedTuple):
    """One drawn picture.

    Attributes:
        image: ``(H, W)`` uint8 grey values.
        labels: ``(H, W)`` uint8 indices into ``SCENE_CLASSES``.
        groups: What lies where.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    groups: tuple[Group, ...]


def draw_scene(generator: np.random.Generator, options: SceneOptions | None = None) -> Scene:
    """Draw one picture.

    Args:
        generator: Decides everything that the options leave open.
        options: What the picture is like.

    Returns:
        Grey values, labels, and what lies where: at least one group, at most ``options.groups``.
    """
    options = SceneOptions() if options is None else options
    groups = _place(generator, options)
    rows, columns = np.mgrid[0 : options.size, 0 : options.size].astype(np.float64) + 0.5
    grey = 0.42 + 0.03 * _smooth(generator, options.size, 9.0)
    texture = 0.62 + 0.05 * _smooth(generator, options.size, 2.0)
    labels = np.zeros(grey.shape, dtype=np.uint8)
    for group in groups:
        own = {BRIGHT: 0.2, DARK: -0.2}[group.label] if group.cue is None else 0.0
        for center in group.centers:
            distance = np.hypot(rows - center[0], columns - center[1])
            inside = (distance <= options.object_size / 2) & (distance > options.hole / 2)
            labels[inside] = group.label
            grey = np.where(inside, texture + own, grey)
        if group.cue is not None:
            spot = np.hypot(rows - group.cue[0], columns - group.cue[1]) <= _SPOT
            grey = np.where(spot, 0.95 if group.label == BRIGHT else 0.05, grey)
    grey = ndimage.gaussian_filter(grey, 0.6) + generator.normal(0.0, options.noise, grey.shape)
    image = np.clip(np.rint(255 * grey), 0, 255).astype(np.uint8)
    return Scene(image, labels, groups)


def write_scene_dataset(
    folder: Path, options: SceneOptions | None = None, *, images: Mapping[str, int], seed: int = 0
) -> Path:
    """Write pictures as an ordinary folder: ``images/`` and ``masks/`` by split, and ``dataset.yaml``.

    Args:
        folder: Where; made if it is not there. Files of the same names are replaced.
        options: What the pictures are like.
        images: How many pictures each split gets.
        seed: Another seed gives other pictures.

    Returns:
        The folder.

    Raises:
        OutputError: A file or folder cannot be written.
    """
    options = SceneOptions() if options is None else options
    splits = [split for split, count in images.items() for _ in range(count)]
    drawn = (
        (split, f"scene_{number:04d}", *draw_scene(np.random.default_rng((seed, number)), options)[:2])
        for number, split in enumerate(splits)
    )
    made = ", ".join(f"{key} {value:g}" for key, value in asdict(options).items())
    comment = f"Drawn by denseg from seed {seed} ({made}): no licence applies to these pictures."
    return write_drawn(folder, drawn, images, classes=SCENE_CLASSES, name="denseg scenes", comment=comment)


def _place(generator: np.random.Generator, options: SceneOptions) -> tuple[Group, ...]:
    """Throw groups until enough lie apart."""
    groups: list[Group] = []
    for _ in range(_TRIES):
        middle = generator.uniform(options.reach, options.size - options.reach, 2)
        angle = generator.uniform(0.0, 2 * np.pi)
        label = int(generator.integers(BRIGHT, DARK + 1))
        along, across = np.array([np.sin(angle), np.cos(angle)]), np.array([np.cos(angle), -np.sin(angle)])
        sides = (-1, 1) if options.gap else (0,)
        centers = tuple(_point(middle + side * options.arm * along) for side in sides)
        cue = _point(middle + options.height * across) if options.cue_distance else None
        group = Group(label, centers, cue)
        if all(_apart(group, other, options) for other in groups):
            groups.append(group)
        if len(groups) == options.groups:
            break
    return tuple(groups)


def _apart(one: Group, other: Group, options: SceneOptions) -> bool:
    """Whether two groups neither touch nor lie nearer to the other's cue than half again as far as their own."""
    radius = options.object_size / 2
    if any(math.dist(a, b) < options.object_size + _APART for a in one.centers for b in other.centers):
        return False
    if one.cue is None or other.cue is None:
        return True
    if math.dist(one.cue, other.cue) < 2 * _SPOT + _APART:
        return False
    far = radius + 1.5 * options.cue_distance
    pairs = ((one.cue, other.centers), (other.cue, one.centers))
    return all(math.dist(cue, center) >= far for cue, centers in pairs for center in centers)


def _point(place: Plane) -> tuple[float, float]:
    return float(place[0]), float(place[1])


def _smooth(generator: np.random.Generator, size: int, length: float) -> Plane:
    """Give noise of mean 0 and standard deviation 1 that varies over ``length`` pixels."""
    noise = ndimage.gaussian_filter(generator.normal(0.0, 1.0, (size, size)), length / 2, mode="wrap")
    return np.asarray((noise - noise.mean()) / max(float(noise.std()), 1e-9))
