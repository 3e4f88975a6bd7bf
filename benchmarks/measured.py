# SPDX-License-Identifier: Apache-2.0
"""Processor time and memory of a step, each in a process of its own with one thread.

Processor time, not time on the wall: other programs of a loaded machine take turns with the step, but their turns are
not counted (they still cost it some of its caches). The least of several runs is what the step needs. Memory is the
most that the process held during the step, less what it held before.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType

__all__ = ["Measured"]

_STATE: dict[str, Callable[[], object]] = {}


class Measured:
    """A step in its own process."""

    def __init__(self, make: Callable[..., Callable[[], object]], *arguments: object) -> None:
        """Start the process and make the step.

        Args:
            make: Function of a module; makes the step.
            *arguments: What it takes; sent to the process.
        """
        # A forked process has torch imported already; it must have run nothing in threads before.
        way = "fork" if sys.platform == "linux" else "spawn"
        self._pool = ProcessPoolExecutor(1, mp_context=get_context(way))
        self._pool.submit(_make, make, arguments).result()

    def __enter__(self) -> Measured:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def run(self) -> tuple[float, int]:
        """Run the step once.

        Returns:
            Seconds of processor time, and bytes that the process grew by at most.
        """
        return self._pool.submit(_run).result()


def _make(make: Callable[..., Callable[[], object]], arguments: tuple[object, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    _STATE["step"] = make(*arguments)


def _run() -> tuple[float, int]:
    step = _STATE["step"]
    before = _start_peak()
    began = time.process_time()
    result = step()
    seconds = time.process_time() - began
    grown = _peak() - before
    del result
    return seconds, max(0, grown)


def _start_peak() -> int:
    """Forget the largest size so far where the system lets us; give the size now, in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return _status("VmRSS")
    except (OSError, ValueError):
        return _peak()


def _peak() -> int:
    try:
        return _status("VmHWM")
    except (OSError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"the system does not tell {field}")
