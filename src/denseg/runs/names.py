# SPDX-License-Identifier: Apache-2.0
"""Names for runs that nobody named: ``runs/camvid-unet``, then ``runs/camvid-unet-2``, …."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["latest_run_path", "next_run_path"]


def next_run_path(root: Path | str, name: str) -> Path:
    """Find the next free name for a run.

    Args:
        root: The folder that holds the runs; it may be absent.
        name: What the run is called, for example ``camvid-unet``.

    Returns:
        ``root/name``, or ``root/name-N`` with N one more than the highest number there.
    """
    taken = _numbers(Path(root), name)
    number = max(taken, default=0) + 1
    return Path(root) / (name if number == 1 else f"{name}-{number}")


def latest_run_path(root: Path | str, name: str) -> Path | None:
    """Find the newest run that ``next_run_path`` named.

    Args:
        root: The folder that holds the runs; it may be absent.
        name: What the run is called.

    Returns:
        The path, or ``None`` where there is none.
    """
    taken = _numbers(Path(root), name)
    return taken[max(taken)] if taken else None


def _numbers(root: Path, name: str) -> dict[int, Path]:
    pattern = re.compile(re.escape(name) + r"(?:-(\d+))?")
    if not root.is_dir():
        return {}
    return {int(match[1] or 1): path for path in root.iterdir() if (match := pattern.fullmatch(path.name))}
