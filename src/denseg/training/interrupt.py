# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C, SIGTERM and a closed terminal: before training they stop at once, inside the loop after the current step."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from denseg.errors import InterruptedRunError, OutputError

__all__ = ["StopRequest", "catch_signals", "stoppable"]

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class StopRequest:
    """Whether somebody asked to stop.

    Attributes:
        requested: Name of the signal that came while it was deferred, for example ``SIGINT``; empty before.
        at_once: Whether a signal broke off what was running. Libraries in C may make another error of that: one that
            comes out later tells nothing.
        outer: The handler of SIGINT that stood before; asked first where a signal stops at once.
    """

    def __init__(self) -> None:
        self.requested = ""
        self.at_once = False
        self._deferred = False
        self.outer: Any = None

    def __bool__(self) -> bool:
        return bool(self.requested)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let the block finish its step: a signal only sets ``requested``; a second one stops at once.

        Yields:
            Nothing.
        """
        before, self._deferred = self._deferred, True
        try:
            yield
        finally:
            self._deferred = before

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal.

        Args:
            number: Of the signal.
            frame: Not used.

        Raises:
            KeyboardInterrupt: Signals are not deferred, or this is the second one.
        """
        if not self._deferred or self.requested:
            self.at_once = True
            if callable(self.outer):
                self.outer(signal.SIGINT, frame)
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name
        with contextlib.suppress(OSError):  # not sys.stderr: it may be in the middle of a write
            os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")


@contextmanager
def catch_signals() -> Iterator[StopRequest]:
    """Take SIGINT, SIGTERM and SIGHUP while the block runs; outside the main thread, and for ignored signals, nothing.

    Yields:
        The request to look at.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before: dict[int, Any] = {}
    try:
        for number in _SIGNALS:
            if signal.getsignal(number) not in {signal.SIG_IGN, None}:
                before[number] = signal.signal(number, stop.handle)
        stop.outer = before.get(signal.SIGINT)
        yield stop
    finally:
        for number, handler in before.items():
            with contextlib.suppress(ValueError, TypeError):
                signal.signal(number, handler)


@contextmanager
def stoppable(said: str) -> Iterator[StopRequest]:
    """Take signals while the block runs, and tell a stop as one, whatever a library in C made of it.

    Args:
        said: What the user reads, and how to go on.

    Yields:
        The request to look at.

    Raises:
        InterruptedRunError: A signal broke the block off.
    """
    with catch_signals() as stop:
        try:
            yield stop
        except KeyboardInterrupt as error:
            raise InterruptedRunError(said) from error
        except Exception as error:
            if stop.at_once and not isinstance(error, OutputError | InterruptedRunError):
                raise InterruptedRunError(said) from error
            raise
