# SPDX-License-Identifier: Apache-2.0
"""How far a pixel reaches: the context that a tile needs for its core to equal the whole image.

One NaN in an image, and every score that it reaches is NaN: measured at each position modulo the stride, on long strips
(one axis at a time: a kernel reaches along an axis through its central line). That finds every dependence that always
exists, and image pooling or attention at once. What it cannot find are kernels that change with the image's size
(aligned corners, adaptive bins), so tiles are then compared with the whole at two sizes.

Shape letters: C bands, L length of a strip, m the stride (and the strip's width).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from denseg.errors import UsageError
from denseg.inference.runtime import plan_tiles, run_plan

__all__ = ["Reach", "measure_reach"]

LONGEST_STRIP = 4096
"""Pixels; a model that reaches to both ends of a longer strip counts as seeing the whole image."""
TOLERANCE = 1e-4
"""Of the standard deviation of a class's scores: what tile and whole may differ. Rounding stays below 1e-5, missing
context above 1e-2."""
ROUNDING = 2e-6
"""Of the largest score, likewise."""
PIXELS_AT_ONCE = 1 << 19


@dataclass(frozen=True)
class Reach:
    """How far one input pixel reaches in a model's result.

    Attributes:
        halo: Pixels of context that make a tile exact, a multiple of the stride; ``None`` where no halo does.
        reason: Why, in a few words for a person.
        difference: Largest difference between tile and whole that was measured, in standard deviations of the scores;
            ``None`` where the model sees the whole image and nothing was compared.
    """

    halo: int | None
    reason: str
    difference: float | None = None

    @property
    def exact(self) -> bool:
        """Whether tiles can equal the whole image."""
        return self.halo is not None

    def to_json(self) -> dict[str, Any]:
        """Give ``{"pixels": halo or null, "reason": …, "difference": …}``: what a checkpoint stores as ``halo``."""
        return {"pixels": self.halo, "reason": self.reason, "difference": self.difference}

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | int) -> Reach:
        """Build it from what ``to_json`` gave, or from a bare number of pixels.

        Args:
            value: The stored value.

        Returns:
            The reach.
        """
        if isinstance(value, int):
            return cls(value, "stored in the checkpoint")
        pixels, difference = value["pixels"], value.get("difference")
        return cls(
            None if pixels is None else int(pixels),
            str(value.get("reason", "stored in the checkpoint")),
            None if difference is None else float(difference),
        )


@torch.inference_mode()
def measure_reach(scores: Callable[[Tensor], Tensor] | nn.Module, *, in_channels: int, multiple: int) -> Reach:
    """Measure the halo of a model of same-size result.

    Args:
        scores: From ``(B, C, H, W)`` to logits or probabilities ``(B, K, H, W)``, or a model that returns a
            ``SegmentationOutput``; in evaluation mode. Called with sides that are multiples of ``multiple``.
        in_channels: C.
        multiple: The model's total stride.

    Returns:
        The reach.

    Raises:
        UsageError: The model is in training mode.
    """
    if isinstance(scores, nn.Module) and scores.training:
        raise UsageError("the reach of a model is measured in evaluation mode; call model.eval() first")
    probe = _Probe(scores, in_channels, multiple)
    length = probe.find_length()
    if length is None:
        return Reach(None, "the model sees the whole image at once")
    down = probe.reach(length, axis=0, phases=range(multiple))
    some = sorted({0, multiple // 2, multiple - 1, down.index(max(down))})
    across = probe.reach(length, axis=1, phases=some)
    if across != [down[phase] for phase in some]:  # the axes differ: measure this one in full, too
        across = probe.reach(length, axis=1, phases=range(multiple))
    pixels = max(*down, *across)
    halo = -(-pixels // multiple) * multiple
    for wider in (halo, halo + multiple, 2 * halo + multiple):
        gaps = [probe.compare(wider, axis, tiles) for axis in (0, 1) for tiles in (3, 5)]
        difference = max(gap.relative for gap in gaps)
        if all(gap.small for gap in gaps):
            return Reach(wider, f"one pixel reaches {pixels} pixels far", difference)
    return Reach(None, "the model's result depends on the image's size", difference)


class _Gap(NamedTuple):
    """Largest difference between tile and whole, beside what it is measured against."""

    largest: float
    spread: float
    magnitude: float

    @property
    def relative(self) -> float:
        return self.largest / self.spread if self.spread > 0 else self.largest

    @property
    def small(self) -> bool:
        """Within tolerance, or within the rounding of scores that hardly vary (an untrained network)."""
        return self.largest <= TOLERANCE * self.spread + ROUNDING * self.magnitude


class _Probe:
    """Strips through one model."""

    def __init__(self, scores: Callable[[Tensor], Tensor] | nn.Module, in_channels: int, multiple: int) -> None:
        self.scores = scores
        self.in_channels = in_channels
        self.multiple = multiple
        first = next(scores.parameters(), None) if isinstance(scores, nn.Module) else None
        self.device = torch.device("cpu") if first is None else first.device

    def run(self, images: Tensor) -> Tensor:
        result = self.scores(images.to(self.device))
        logits: Tensor = getattr(result, "logits", result)
        return logits.float().cpu()

    def strip(self, length: int, axis: int) -> Tensor:
        """Random pixels, ``(1, C, L, m)`` or ``(1, C, m, L)``; the same every time."""
        shape = (length, self.multiple) if axis == 0 else (self.multiple, length)
        generator = torch.Generator().manual_seed(length)
        return torch.randn((1, self.in_channels, *shape), generator=generator)

    def touched(self, length: int, axis: int, positions: list[int]) -> list[tuple[int, int] | None]:
        """First and last place along the axis that a NaN at each position reaches; ``None`` where it reaches none."""
        batch = max(1, PIXELS_AT_ONCE // (length * self.multiple))
        found: list[tuple[int, int] | None] = []
        for first in range(0, len(positions), batch):
            chosen = positions[first : first + batch]
            images = self.strip(length, axis).repeat(len(chosen), 1, 1, 1)  # (B, C, L, m) or (B, C, m, L)
            for index, position in enumerate(chosen):
                images[index].select(1 + axis, position).fill_(float("nan"))
            hit = self.run(images).isnan().any(dim=1).any(dim=2 - axis)  # (B, L)
            for row in hit:
                places = row.nonzero()
                found.append((int(places[0]), int(places[-1])) if len(places) else None)
        return found

    def find_length(self) -> int | None:
        """Find a strip that is longer than the reach; ``None`` where none is.

        The longest strip comes first: a dilated kernel can jump over the ends of a short one.
        """
        longest = _round_up(LONGEST_STRIP, 2 * self.multiple)
        middle = longest // 2
        far = 0
        for axis in (0, 1):
            (ends,) = self.touched(longest, axis, [middle])
            if ends is None:
                continue
            # A whole stride must stay free at both ends, for the other phases reach up to one stride further.
            if ends[0] < 2 * self.multiple or ends[1] >= longest - 2 * self.multiple:
                return None
            far = max(far, middle - ends[0], ends[1] - middle)
        return _round_up(2 * far + 6 * self.multiple, 2 * self.multiple)

    def reach(self, length: int, axis: int, phases: range | list[int]) -> list[int]:
        """How far a NaN at each phase of the stride reaches, in pixels."""
        start = length // 2 // self.multiple * self.multiple
        positions = [start + phase for phase in phases]
        found = self.touched(length, axis, positions)
        return [
            0 if ends is None else max(position - ends[0], ends[1] - position)
            for position, ends in zip(positions, found, strict=True)
        ]

    def compare(self, halo: int, axis: int, tiles: int) -> _Gap:
        """Compute one strip in tiles and whole."""
        tile = 2 * halo + 2 * self.multiple
        length = tile + (2 * (tiles - 1) - 1) * self.multiple
        image = self.strip(length, axis)
        whole = self.run(image)[0].numpy()  # (K, L, m)
        height, width = image.shape[2:]
        plan = plan_tiles(height, width, tile=tile, overlap=2 * halo, multiple=self.multiple)
        pixels = image[0].numpy()
        worst = 0.0
        for part, values in run_plan(
            plan,
            lambda top, left, rows, columns: pixels[:, top : top + rows, left : left + columns],
            lambda windows: self.run(torch.from_numpy(np.ascontiguousarray(windows))).numpy(),
        ):
            gap = float(np.abs(part.crop(values) - whole[:, part.core[0], part.core[1]]).max())
            worst = max(worst, gap if np.isfinite(gap) else np.inf)
        return _Gap(worst, float(whole.std(axis=(1, 2)).mean()), float(np.abs(whole).max()))


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
