# SPDX-License-Identifier: Apache-2.0
"""Facts of the machine that a plan rests on."""

from __future__ import annotations

from pathlib import Path

import torch

from denseg.data.doctor.crew import process_count
from denseg.training.fabric import device_kind

__all__ = ["Machine", "free_memory", "look_at_machine"]

_UNKNOWN = 4 * 2**30
"""Bytes assumed to be free where the system does not say."""


class Machine:
    """What trains.

    Attributes:
        device: ``cpu``, ``cuda`` or ``mps``.
        processors: Processors that this process may use.
        memory: Free bytes of the device.
    """

    def __init__(self, device: str, processors: int, memory: int) -> None:
        """Keep the facts.

        Args:
            device: ``cpu``, ``cuda`` or ``mps``.
            processors: Processors that this process may use.
            memory: Free bytes of the device.
        """
        self.device, self.processors, self.memory = device, processors, memory

    def __str__(self) -> str:
        return f"{self.device}, {self.processors} processors, {self.memory / 2**30:.0f} GiB free"


def look_at_machine(device: str) -> Machine:
    """Collect the facts.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Returns:
        The machine.
    """
    return Machine(device_kind(device), process_count(), free_memory(device))


def free_memory(device: str) -> int:
    """Measure how many bytes are free: of the GPU, or of the memory that this process may use.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Returns:
        Bytes.
    """
    if device_kind(device) == "cuda":
        free, _ = torch.cuda.mem_get_info(torch.device(device) if ":" in device else None)
        return int(free)
    known = [value for value in (_available(Path("/proc/meminfo")), _left(Path("/sys/fs/cgroup"))) if value is not None]
    return min(known, default=_UNKNOWN)


def _available(path: Path) -> int | None:
    """Read what Linux can hand out without swapping."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _left(group: Path) -> int | None:
    """Read what a container's limit leaves."""
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        inactive = (
            line.split()[1] for line in (group / "memory.stat").read_text().splitlines() if "inactive_file" in line
        )
        return None if limit == "max" else max(0, int(limit) - used + int(next(inactive, "0")))
    except (OSError, ValueError):
        return None
