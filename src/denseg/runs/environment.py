# SPDX-License-Identifier: Apache-2.0
"""What a run ran on: versions, machine and command, gathered without importing torch."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from denseg import __version__

__all__ = ["describe_environment"]

_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "lightning-fabric",
    "numpy",
    "scipy",
    "pillow",
    "tifffile",
    "safetensors",
    "pydantic",
)


def describe_environment(command: Sequence[str] | None = None, **facts: Any) -> dict[str, Any]:
    """Describe the software and the machine.

    Args:
        command: The command line that replays the run; ``sys.argv`` where ``None``.
        **facts: Further JSON values to record, for example ``device``, ``threads`` and ``precision``.

    Returns:
        JSON values: ``denseg``, ``commit``, ``python``, ``platform``, ``processor``, ``cores``, ``memory_bytes``,
        ``packages``, ``command`` (one string for a shell), ``folder`` (where it was given), ``started`` (UTC, ISO
        8601), and ``facts``.
    """
    words = _own_command() if command is None else list(command)
    return {
        "denseg": __version__,
        "commit": source_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": _memory(),
        "packages": _versions(),
        "command": shlex.join(words),
        "folder": str(Path.cwd()),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
    }


def source_commit() -> str:
    """Read the commit of the checkout that this package runs from, without starting git.

    Returns:
        40 hexadecimal digits; empty for an installed package.
    """
    root = Path(__file__).resolve().parents[3]
    try:
        git = root / ".git"
        if git.is_file():  # a linked work tree: "gitdir: PATH"
            git = (root / git.read_text().partition(":")[2].strip()).resolve()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head
        name = head.partition(":")[2].strip()
        common = git / (git / "commondir").read_text().strip() if (git / "commondir").is_file() else git
        if (common / name).is_file():
            return (common / name).read_text().strip()
        packed = (common / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {name}")), "")
    except (OSError, UnicodeDecodeError):
        return ""


def _own_command() -> list[str]:
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    if program == "__main__.py":
        return [Path(sys.executable).name, "-m", Path(sys.argv[0]).parent.name, *sys.argv[1:]]
    return [program, *sys.argv[1:]]


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    return versions
