# SPDX-License-Identifier: Apache-2.0
"""Pictures that differ from those of training: told once, with the numbers, before anybody trusts their labels.

Letters: H and W image height and width, C bands.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["InputGuard"]

Array = npt.NDArray[Any]

SIZE_FACTOR = 2.0
"""A side outside the range of training by more than this differs."""
SPREADS = 2.0
"""A band whose mean lies more of training's standard deviations away differs."""
CONTRAST = 3.0
"""A band that varies this many times more or less differs."""
SAMPLED = 256
"""Rows and columns looked at for the statistics."""


@dataclass
class _Finding:
    """What one kind of difference looked like first, and how often it came."""

    first: str
    count: int = 0


class InputGuard:
    """Compares pictures with the data set that a model was trained on; safe to call from several threads."""

    def __init__(self, training: Mapping[str, Any] | None) -> None:
        """Keep what the checkpoint says.

        Args:
            training: Its ``training`` part: ``images`` and ``intensity`` of the data set's fingerprint. Nothing is
                compared where they are missing.
        """
        training = training or {}
        self._images: Mapping[str, Any] = training.get("images") or {}
        self._intensity: list[Mapping[str, float]] = list(training.get("intensity") or [])
        self._findings: dict[str, _Finding] = {}
        self._seen = 0
        self._lock = threading.Lock()

    def look(self, name: str, image: Array) -> None:
        """Compare one picture.

        Args:
            name: For a person.
            image: ``(H, W, C)`` or ``(H, W)`` as stored.
        """
        pixels = image[:, :, None] if image.ndim == 2 else image
        found = {
            "size": self._size(pixels.shape[0], pixels.shape[1]),
            "depth": self._listed("dtype", str(pixels.dtype), "pixels of type"),
            "bands": self._listed("bands", str(pixels.shape[2]), "bands:"),
            "intensity": self._values(pixels),
        }
        with self._lock:
            self._seen += 1
            for kind, text in found.items():
                if text is not None:
                    self._findings.setdefault(kind, _Finding(f"{name} {text}")).count += 1

    def lines(self) -> list[str]:
        """Say each kind of difference once.

        Returns:
            One line per kind; empty where all is as in training.
        """
        with self._lock:
            return [
                f"{kind} unlike training in {found.count} of {self._seen} pictures, first {found.first}"
                for kind, found in self._findings.items()
            ]

    def _size(self, height: int, width: int) -> str | None:
        for side, value in (("height", height), ("width", width)):
            known = self._images.get(side)
            if known and not known["min"] / SIZE_FACTOR <= value <= known["max"] * SIZE_FACTOR:
                tall, wide = self._images["height"], self._images["width"]
                return (
                    f"with {height} x {width} pixels; training had {tall['min']} to {tall['max']} x "
                    f"{wide['min']} to {wide['max']}"
                )
        return None

    def _listed(self, key: str, value: str, words: str) -> str | None:
        known = self._images.get(key)
        if not known or value in known:
            return None
        return f"with {words} {value}; training had {', '.join(known)}"

    def _values(self, pixels: Array) -> str | None:
        if len(self._intensity) != pixels.shape[2] or pixels.dtype.kind not in "iuf":
            return None
        step = [max(1, side // SAMPLED) for side in pixels.shape[:2]]
        sample = pixels[:: step[0], :: step[1]].reshape(-1, pixels.shape[2]).astype(np.float64)
        sample = np.where(np.isfinite(sample), sample, np.nan)
        for band, known in enumerate(self._intensity):
            values = sample[:, band]
            if np.isnan(values).all():
                return f"with no value in band {band}"
            mean, std = float(np.nanmean(values)), float(np.nanstd(values))
            usual = max(known["std"], 1e-9)
            if abs(mean - known["mean"]) > SPREADS * usual or std > CONTRAST * usual or std < usual / CONTRAST:
                return (
                    f"with band {band} at {mean:.4g} ± {std:.3g}; training had {known['mean']:.4g} ± {known['std']:.3g}"
                )
        return None
