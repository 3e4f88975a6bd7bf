# SPDX-License-Identifier: Apache-2.0
"""The pictures, masks and predictions that an evaluation names, found and read; what is gone is told apart.

Letters: H and W height and width in pixels, C bands.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from denseg.data.encoding import MaskEncoding
from denseg.data.folders.inventory import Pair
from denseg.data.reading.masks import read_mask
from denseg.data.samples.pairs import read_pair_image, read_pair_labels
from denseg.errors import DensegError
from denseg.report.facts import RunFacts
from denseg.report.pixels import Labels

__all__ = ["Sources", "find_file"]


class Sources:
    """Reads what one evaluation is about.

    Attributes:
        facts: The run.
        split: The evaluated split.
    """

    def __init__(self, facts: RunFacts, split: str) -> None:
        """Take the run's mask encoding.

        Args:
            facts: The run.
            split: The evaluated split.
        """
        self.facts = facts
        self.split = split
        stored = facts.check.get("encoding") if facts.check else None
        self._encoding = MaskEncoding.from_json(stored) if stored else None

    def image(self, entry: Mapping[str, Any]) -> NDArray[Any] | None:
        """Read an image, ``(H, W, C)``; ``None`` where its file is gone or damaged."""
        path = find_file(self.facts, entry["image"])
        try:
            return None if path is None else read_pair_image(_pair(entry, path))
        except DensegError:
            return None

    def truth(self, entry: Mapping[str, Any]) -> Labels | None:
        """Read true labels, ``(H, W)``; ``None`` where the file is gone or no longer what it was."""
        path = find_file(self.facts, entry["mask"])
        try:
            if path is None or self._encoding is None:
                return None
            return read_pair_labels(_pair(entry, path), self._encoding)
        except DensegError:
            return None

    def prediction(self, entry: Mapping[str, Any]) -> Labels | None:
        """Read predicted labels, ``(H, W)``; ``None`` where the file is gone or damaged."""
        try:
            labels: Labels = read_mask(self.facts.run.prediction_path(self.split, entry["stem"])).values
        except DensegError:
            return None
        return labels if labels.ndim == 2 and labels.dtype.kind in "iu" else None


def _pair(entry: Mapping[str, Any], path: Path) -> Pair:
    """Say which part of a file an entry is about; the other file of the pair is not looked at."""
    window = entry.get("window")
    pages = entry.get("image_page", 0), entry.get("mask_page", 0)
    return Pair(entry["stem"], path, path, None, *pages, window=None if window is None else tuple(window))


def find_file(facts: RunFacts, name: str) -> Path | None:
    """Find a file that a run names: as it stands, or below the data folder, from here or from where the run began.

    Args:
        facts: The run.
        name: Path as the run wrote it.

    Returns:
        The file; ``None`` where there is none.
    """
    data = facts.config.data.path or ""
    began = facts.environment.get("folder") or ""
    for base in ("", data, began, Path(began) / data, facts.run.path / data):
        path = Path(base) / name
        if path.is_file():
            return path
    return None
