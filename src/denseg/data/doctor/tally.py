# SPDX-License-Identifier: Apache-2.0
"""All masks of a data set together: which values they hold, in how many files and pixels, and which of them are clean.

Colours are one number ``red << 16 | green << 8 | blue`` here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from denseg.data.doctor.survey import MaskFacts

__all__ = ["Blur", "Tally", "find_blur", "shown", "unpack"]

RAMPS = 0.1  # measured: drawn masks up to 0.02, smoothly resized ones from 0.19
DISTANCES = (24, 16, 10)  # clean values nearer than the last cannot be told apart once they are blurred
NOISE, NOISE_COLOR = 2, 6  # JPEG changes flat areas by about so much
MAX_FAR = 0.02  # of the flat areas may differ by more
MIN_SHARE = 0.002  # of all pixels, for a clean value


@dataclass(frozen=True)
class Tally:
    """What the masks of a data set hold together.

    Attributes:
        masks: File and facts of each mask, all numbers or all colours.
        values: Distinct stored values, ascending.
        files: In how many masks each value is.
        pixels: How many pixels hold each value.
        flat: How many of them have equal neighbours.
        color: Whether values are colours.
    """

    masks: tuple[tuple[Path, MaskFacts], ...]
    values: NDArray[np.int64]
    files: NDArray[np.int64]
    pixels: NDArray[np.int64]
    flat: NDArray[np.int64]
    color: bool

    @classmethod
    def of(cls, masks: Sequence[tuple[Path, MaskFacts]], *, color: bool = False) -> Tally:
        """Add masks up.

        Args:
            masks: File and facts of each.
            color: Whether values are colours; numbers and palette indices are turned into colours then.

        Returns:
            The sums.
        """
        if not masks:
            empty = np.zeros(0, np.int64)
            return cls((), empty, empty, empty, empty, color)
        turned = tuple((path, _as_color(facts) if color else facts) for path, facts in masks)
        values, where = np.unique(np.concatenate([facts.values for _, facts in turned]), return_inverse=True)

        def add(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
            return np.bincount(where, np.concatenate(parts), len(values)).astype(np.int64)

        pixels = add([facts.counts for _, facts in turned])
        flat = add([facts.flat for _, facts in turned])
        return cls(turned, values, np.bincount(where, minlength=len(values)).astype(np.int64), pixels, flat, color)

    @property
    def total(self) -> int:
        """Pixels in all."""
        return int(self.pixels.sum())

    def holding(self, values: Iterable[int]) -> list[Path]:
        """List the masks that hold one of some values."""
        wanted = np.asarray(sorted(values), np.int64)
        return [path for path, facts in self.masks if bool(np.isin(facts.values, wanted).any())]

    def share(self, values: Iterable[int]) -> float:
        """Give the share of all pixels that hold one of some values."""
        wanted = np.asarray(sorted(values), np.int64)
        return float(self.pixels[np.isin(self.values, wanted)].sum()) / max(self.total, 1)


@dataclass(frozen=True)
class Blur:
    """Masks whose edges went through JPEG or a smooth resize: a few clean values and many between them.

    Attributes:
        clean: The clean values, ascending.
        tolerance: Largest distance (of a channel) from a value to its nearest clean one.
        share: Share of pixels that are not clean.
        files: The masks with such pixels.
        readable: Whether the clean values lie far enough apart to tell which one a blurred pixel was.
    """

    clean: tuple[int, ...]
    tolerance: int
    share: float
    files: tuple[Path, ...]
    readable: bool


def find_blur(tally: Tally, known: Sequence[int] = ()) -> Blur | None:
    """Find out whether masks are blurred: by a lossy format, or by changes that pass through values between.

    Args:
        tally: The masks.
        known: The values that ``dataset.yaml`` names, where it does.

    Returns:
        What was found, or ``None`` where the values are clean.
    """
    files = tuple(path for path, facts in tally.masks if facts.lossy or _soft(facts))
    if not files:
        return None
    if known:
        clean = np.asarray(sorted(known), np.int64)
        apart = True
    else:
        clean, apart = _clean_values(tally)
    rest = ~np.isin(tally.values, clean)
    if not rest.any() and any(facts.lossy for _, facts in tally.masks):
        return None
    distance = _distance(tally, clean)
    gap = min(_gaps(clean, color=tally.color), default=0)
    share = float(tally.pixels[rest].sum()) / max(tally.total, 1)
    readable = apart and gap >= DISTANCES[-1] and len(clean) > 1
    return Blur(tuple(clean.tolist()), int(distance.max(initial=0)), share, files, readable)


def unpack(code: int) -> tuple[int, int, int]:
    """Split a colour's number into red, green, blue."""
    return (code >> 16, (code >> 8) & 255, code & 255)


def shown(values: Sequence[int], *, color: bool = False, limit: int = 8) -> str:
    """Write values for a message: ``0, 1 and 255``, ranges shortened, colours as ``(r, g, b)``.

    Args:
        values: Ascending.
        color: Whether they are colours.
        limit: At most so many parts.

    Returns:
        The text.
    """
    if color:
        parts = [str(unpack(value)) for value in values]
    else:
        runs: list[list[int]] = []
        for value in values:
            if runs and value == runs[-1][-1] + 1:
                runs[-1].append(value)
            else:
                runs.append([value])
        parts = []
        for run in runs:
            parts += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else [str(value) for value in run]
    if len(parts) > limit:
        return f"{', '.join(parts[: limit - 1])} and {len(parts) - limit + 1} more"
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def _as_color(facts: MaskFacts) -> MaskFacts:
    """Give the same facts with colours in place of indices or grey values."""
    if facts.kind == "color":
        return facts
    if facts.kind == "palette" and facts.palette is not None:
        palette = np.zeros((256, 3), np.int64)
        palette[: len(facts.palette)] = facts.palette[:256]
        codes = (palette[:, 0] << 16 | palette[:, 1] << 8 | palette[:, 2])[np.minimum(facts.values, 255)]
    else:
        grey = np.clip(facts.values, 0, 255)
        codes = grey << 16 | grey << 8 | grey
    values, where = np.unique(codes, return_inverse=True)
    counts = np.bincount(where, facts.counts, len(values)).astype(np.int64)
    flat = np.bincount(where, facts.flat, len(values)).astype(np.int64)
    return replace(facts, kind="color", values=values, counts=counts, flat=flat, palette=None)


def _soft(facts: MaskFacts) -> bool:
    """Whether areas run into each other over values between; masks without areas (noise, thin lines) tell nothing."""
    return facts.ramps > RAMPS and int(facts.flat.sum()) > 0.3 * int(facts.counts.sum())


def _clean_values(tally: Tally) -> tuple[NDArray[np.int64], bool]:
    """Find the values that fill areas, and say whether all areas hold about one of them: else classes ran together."""
    clean = np.zeros(0, np.int64)
    for least in DISTANCES:
        clean = _peaks(tally, least)
        # Where classes lie far apart, JPEG's ripple around an edge may be larger and still mean one of them.
        gap = min(_gaps(clean, color=tally.color), default=0)
        noise = max(NOISE_COLOR if tally.color else NOISE, gap // 16)
        far = int(tally.flat[_distance(tally, clean) > noise].sum())
        if far <= MAX_FAR * int(tally.flat.sum()):
            return clean, True
    return clean, False


def _peaks(tally: Tally, least: int) -> NDArray[np.int64]:
    """Pick the values that fill flat areas and that no more frequent value is near to."""
    peaks: list[int] = []
    order = np.argsort(-tally.flat, kind="stable")
    channels = _channels(tally.values, color=tally.color)
    for index in order[:2048]:
        if tally.flat[index] < MIN_SHARE * tally.total or len(peaks) == 64:
            break
        if all(int(np.abs(channels[index] - channels[other]).max()) >= least for other in peaks):
            peaks.append(int(index))
    return np.sort(tally.values[peaks])


def _distance(tally: Tally, clean: NDArray[np.int64]) -> NDArray[np.int64]:
    if not len(clean):
        return np.zeros(len(tally.values), np.int64)
    known = _channels(clean, color=tally.color)
    distance = np.zeros(len(tally.values), np.int64)
    for start in range(0, len(tally.values), 4096):
        part = _channels(tally.values[start : start + 4096], color=tally.color)
        gap = np.abs(part[:, None] - known[None])  # (M, N, 3 or 1)
        nearest = (gap**2).sum(2).argmin(1)
        distance[start : start + 4096] = gap.max(2)[np.arange(len(part)), nearest]
    return distance


def _gaps(clean: NDArray[np.int64], *, color: bool) -> list[int]:
    known = _channels(clean, color=color)
    return [int(np.abs(known[i] - known[j]).max()) for i in range(len(known)) for j in range(i)]


def _channels(codes: NDArray[np.int64], *, color: bool) -> NDArray[np.int64]:
    return np.stack([codes >> 16, (codes >> 8) & 255, codes & 255], 1) if color else codes[:, None]
