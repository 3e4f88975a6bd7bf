# SPDX-License-Identifier: Apache-2.0
"""The ``denseg`` command: one thin file per command, each parses, calls one workflow, prints.

Data goes to stdout, progress to stderr. Exit codes: 0 done, 1 the input is at fault, 2 wrong usage, 3 interrupted.
Importing this package imports no torch; a command imports its workflow when it runs.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and turn whatever it meets into one line on stderr and an exit code.

    Args:
        arguments: What follows ``denseg``; ``sys.argv[1:]`` where omitted.

    Returns:
        The exit code.
    """
    try:
        with _clean_interrupts():
            from denseg.cli.app import run

            return run(arguments)
    except KeyboardInterrupt:  # outside of what a command handles itself
        sys.stderr.write("error: interrupted\n")
        return 3


@contextmanager
def _clean_interrupts() -> Iterator[None]:
    """Let Ctrl-C during an import end the process at once.

    An import that is broken off leaves modules half made, and what comes of them later (a recursion, a signal as exit
    code) hides what happened. Nothing is being written then, so nothing is lost.
    """
    own = threading.current_thread() is threading.main_thread()
    if not own or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"error: interrupted\n")
            os._exit(3)
        frame = frame.f_back
    raise KeyboardInterrupt
