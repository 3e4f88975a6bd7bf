# SPDX-License-Identifier: Apache-2.0
"""What is drawn at random for one training sample: its geometry, as one warp, and its light.

A sample's generator is made of ``(seed, epoch, index)`` alone, so that a sample is the same whatever the number of
workers, the rank or a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from denseg.config import AugmentConfig
from denseg.data.samples.photometry import Light, draw_light
from denseg.data.samples.steps import Crop, Elastic, Flip, MatrixStep, Mirror, Perspective, Scale, Shear, Step, Turn
from denseg.data.samples.warp import Warp
from denseg.errors import UsageError

__all__ = ["Augmentation", "branch", "default_crop", "draw_place", "rare_classes", "sample_generator"]

_DRAWS = 16  # numbers that the geometry beyond scale, crop and flip takes
_MIDDLE = 0.5  # share of a window, in its middle, that a place it is drawn around falls into


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training samples.

    Attributes:
        scale: Lowest and highest factor of a random resize, drawn uniformly; ``(1, 1)`` for none.
        scales: Factors to draw from instead.
        flip: Probability of a left-right flip.
        flip_vertical: Probability of an up-down flip.
        further: Everything else; nothing by default.
    """

    scale: tuple[float, float] = (0.5, 2.0)
    scales: tuple[float, ...] = ()
    flip: float = 0.5
    flip_vertical: float = 0.0
    further: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise UsageError(f"scale must be (low, high) with 0 < low <= high, got {self.scale}")
        if any(scale <= 0 for scale in self.scales):
            raise UsageError(f"scales must be positive, got {self.scales}")
        if not (0 <= self.flip <= 1 and 0 <= self.flip_vertical <= 1):
            raise UsageError(f"flip probabilities must be 0..1, got {self.flip} and {self.flip_vertical}")

    def draw(
        self,
        generator: np.random.Generator,
        size: tuple[int, int],
        crop: tuple[int, int] | None,
        *,
        around: tuple[float, float] | None = None,
    ) -> Warp:
        """Draw the geometry of one sample.

        The picture is resized, flipped, and a window of the crop's size is cut at a random place; what lies in the
        window is turned, slanted, seen from aside and bent. Where the resized picture is smaller than the crop it lies
        somewhere in it, whole.

        Args:
            generator: The sample's own; see ``sample_generator``.
            size: ``(height, width)`` of the picture, in pixels.
            crop: ``(height, width)`` of the sample; ``None`` for the resized picture as a whole.
            around: ``(row, column)`` of the picture that the window must hold, in its middle where it can be.

        Returns:
            The warp from the picture to the sample.
        """
        # Every draw is made whatever the options, so that switching one off leaves the others as they were.
        where, left_right, up_down, down, right = generator.random(5)
        even = generator.random(_DRAWS)
        further = self.further
        if self.scales:
            factor = self.scales[int(where * len(self.scales))]
        else:
            factor = self.scale[0] + where * (self.scale[1] - self.scale[0])
        quarters = 1 + int(3 * even[1]) if even[0] < further.quarter_turns else 0
        upright = (size[1], size[0]) if quarters % 2 else size
        target = (max(1, round(upright[0] * factor)), max(1, round(upright[1] * factor)))
        window = crop or target
        flips = left_right < self.flip, up_down < self.flip_vertical
        before: list[Step] = []  # between the window and the picture
        if any(flips):
            before.append(Flip(target, horizontal=flips[0], vertical=flips[1]))
        if target != upright:
            before.append(Scale(upright, target))
        if quarters:
            before.append(Turn(90 * quarters, _middle(size), _middle(upright)))
        near = None if around is None else _forward(before, around)
        top, left = (
            _start(drawn, target[axis], window[axis], None if near is None else near[axis])
            for axis, drawn in enumerate((down, right))
        )
        steps = [*self._bend(generator, even[2:], window), Crop(top, left), *before]
        if further.border == "mirror":
            steps.append(Mirror(size))
        return Warp(window, tuple(steps))

    def draw_light(self, generator: np.random.Generator) -> Light:
        """Draw what is done to the values of one sample.

        Args:
            generator: The sample's own, after ``draw``.

        Returns:
            The changes.
        """
        return draw_light(generator, self.further)

    def _bend(self, generator: np.random.Generator, even: NDArray[np.float64], window: tuple[int, int]) -> list[Step]:
        """Draw what happens inside the window: from output to source elastic, perspective, rotation, shear."""
        further = self.further
        either = 2 * even - 1  # -1..1
        steps: list[Step] = []
        elastic = further.elastic
        if elastic.sigma > 0 and even[0] < elastic.probability:
            own = branch(generator, 1)  # so that the size of its grid changes no other draw
            steps.append(Elastic(window, own.normal(0.0, elastic.sigma, (2, elastic.grid, elastic.grid))))
        if further.perspective > 0:
            reach = further.perspective * np.asarray(window, np.float64)
            shifts = (either[1:9].reshape(4, 2) * reach).tolist()
            steps.append(Perspective(window, tuple((down, right) for down, right in shifts)))
        if further.rotation > 0:
            steps.append(Turn(float(either[9] * further.rotation), _middle(window)))
        if further.shear > 0:
            across, down = either[10] * further.shear, either[11] * further.shear
            steps.append(
                Shear(float(across), 0.0, _middle(window))
                if even[12] < 0.5
                else Shear(0.0, float(down), _middle(window))
            )
        return steps


def sample_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Make the random generator of one sample.

    Args:
        seed: Of the run.
        epoch: Counted from 0 over the whole run.
        index: Of the sample in the data set.

    Returns:
        The generator; the same arguments give the same numbers.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch, index))))


def branch(generator: np.random.Generator, key: int) -> np.random.Generator:
    """Make a generator of its own for one purpose, which leaves the numbers of the other one as they are.

    Args:
        generator: The sample's own; not drawn from.
        key: The purpose.

    Returns:
        The generator; another key gives other numbers.
    """
    sequence = cast("np.random.SeedSequence", generator.bit_generator.seed_seq)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(sequence.entropy, spawn_key=(key,))))


def draw_place(
    generator: np.random.Generator, labels: NDArray[np.integer], classes: Iterable[int]
) -> tuple[float, float] | None:
    """Draw a pixel of a class, every class that is there being as likely as the others.

    Args:
        generator: The sample's own; two numbers are drawn.
        labels: ``(H, W)``.
        classes: Those to draw from.

    Returns:
        ``(row, column)`` of the pixel's centre; ``None`` where no pixel holds one of the classes.
    """
    which, where = generator.random(2)
    counts = np.bincount(labels.reshape(-1))
    present = [one for one in classes if one < len(counts) and counts[one]]
    if not present:
        return None
    chosen = present[int(which * len(present))]
    pixels = np.flatnonzero(labels == chosen)
    row, column = divmod(int(pixels[int(where * len(pixels))]), labels.shape[1])
    return row + 0.5, column + 0.5


def rare_classes(counts: Sequence[int]) -> tuple[int, ...]:
    """Find the classes that are seen too seldom: less than half of what each would have if all had the same.

    Args:
        counts: ``(K,)`` labelled pixels of each class in the training split.

    Returns:
        Their indices; classes without a pixel are not among them.
    """
    fair = sum(counts) / max(len(counts), 1)
    return tuple(index for index, count in enumerate(counts) if 0 < count < fair / 2)


def default_crop(sizes: Iterable[tuple[int, int]], *, largest: int = 512) -> tuple[int, int]:
    """Choose the training crop where none is asked for: ``largest``, or the pictures where they are smaller.

    Args:
        sizes: ``(height, width)`` of the training pictures, in pixels.
        largest: Longest side of the crop, in pixels.

    Returns:
        ``(height, width)``; smaller pictures among larger ones are padded to it.

    Raises:
        UsageError: There are no sizes.
    """
    known = list(sizes)
    if not known:
        raise UsageError("a crop needs at least one picture size, got none")
    return min(largest, max(height for height, _ in known)), min(largest, max(width for _, width in known))


def _start(drawn: float, extent: int, window: int, near: float | None) -> int:
    """Turn a number in 0..1 into the window's first pixel; negative where the window is larger than the extent."""
    low, high = min(0, extent - window), max(0, extent - window)
    if near is not None:
        first, last = near - window * (1 + _MIDDLE) / 2, near - window * (1 - _MIDDLE) / 2
        return min(max(round(first + drawn * (last - first)), low), high)
    return low + int(drawn * (high - low + 1))


def _middle(size: tuple[int, int]) -> tuple[float, float]:
    return size[0] / 2, size[1] / 2


def _forward(steps: Iterable[Step], place: tuple[float, float]) -> tuple[float, float]:
    """Follow a place of the picture to where the steps, which run the other way, bring it."""
    matrix = np.eye(3)
    for step in steps:
        if isinstance(step, MatrixStep):
            matrix = step.matrix @ matrix
    row, column, _ = np.linalg.solve(matrix, np.asarray((*place, 1.0))).tolist()
    return row, column
