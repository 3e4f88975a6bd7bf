# SPDX-License-Identifier: Apache-2.0
"""What is drawn at random for one training sample: scale, crop and flip, as one warp.

A sample's generator is made of ``(seed, epoch, index)`` alone, so that a sample is the same whatever the number of
workers, the rank or a restart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from denseg.data.steps import Crop, Flip, Scale, Step
from denseg.data.warp import Warp
from denseg.errors import UsageError

__all__ = ["Augmentation", "default_crop", "sample_generator"]


@dataclass(frozen=True)
class Augmentation:
    """Random geometry of training samples.

    Attributes:
        scale: Lowest and highest factor of a random resize, drawn uniformly; ``(1, 1)`` for none.
        scales: Factors to draw from instead.
        flip: Probability of a left-right flip.
        flip_vertical: Probability of an up-down flip.
    """

    scale: tuple[float, float] = (0.5, 2.0)
    scales: tuple[float, ...] = ()
    flip: float = 0.5
    flip_vertical: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise UsageError(f"scale must be (low, high) with 0 < low <= high, got {self.scale}")
        if any(scale <= 0 for scale in self.scales):
            raise UsageError(f"scales must be positive, got {self.scales}")
        if not (0 <= self.flip <= 1 and 0 <= self.flip_vertical <= 1):
            raise UsageError(f"flip probabilities must be 0..1, got {self.flip} and {self.flip_vertical}")

    def draw(self, generator: np.random.Generator, size: tuple[int, int], crop: tuple[int, int] | None) -> Warp:
        """Draw the geometry of one sample.

        The picture is resized, flipped, and a window of the crop's size is cut at a random place. Where the resized
        picture is smaller than the crop it lies somewhere in it, whole.

        Args:
            generator: The sample's own; see ``sample_generator``.
            size: ``(height, width)`` of the picture, in pixels.
            crop: ``(height, width)`` of the sample; ``None`` for the resized picture as a whole.

        Returns:
            The warp from the picture to the sample.
        """
        # Every draw is made whatever the options, so that switching one off leaves the others as they were.
        where, left_right, up_down, down, right = generator.random(5)
        if self.scales:
            factor = self.scales[int(where * len(self.scales))]
        else:
            factor = self.scale[0] + where * (self.scale[1] - self.scale[0])
        target = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
        window = crop or target
        steps: list[Step] = [Crop(_start(down, target[0], window[0]), _start(right, target[1], window[1]))]
        if left_right < self.flip or up_down < self.flip_vertical:
            steps.append(Flip(target, horizontal=left_right < self.flip, vertical=up_down < self.flip_vertical))
        if target != size:
            steps.append(Scale(size, target))
        return Warp(window, tuple(steps))


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


def _start(drawn: float, extent: int, window: int) -> int:
    """Turn a number in 0..1 into the window's first pixel; negative where the window is larger than the extent."""
    low, high = min(0, extent - window), max(0, extent - window)
    return low + int(drawn * (high - low + 1))
