# SPDX-License-Identifier: Apache-2.0
"""A step in a process of its own, so that what a program sets for its process (allocator, threads) stays its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType

__all__ = ["Isolated"]


class Isolated:
    """Calls a step that was made, and runs, in another process; sending the word takes about 0.1 ms."""

    def __init__(self, make: Callable[..., Callable[[], object]], *arguments: object) -> None:
        """Start the process and wait until the step is made.

        Args:
            make: Function of a module; makes the step.
            *arguments: What it takes; sent to the process.
        """
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments))
        self._process.start()
        theirs.close()
        self._wait()

    def __call__(self) -> None:
        """Run the step once, to its end."""
        self._connection.send(True)
        self._wait()

    def __enter__(self) -> Isolated:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join()

    def _wait(self) -> None:
        said = self._connection.recv()
        if said:
            self.close()
            raise RuntimeError(said)


def _serve(connection: Connection, make: Callable[..., Callable[[], object]], arguments: tuple[object, ...]) -> None:
    try:
        step = make(*arguments)
        connection.send("")
        while connection.recv():
            step()
            connection.send("")
    except EOFError:  # the other side has closed
        pass
    except Exception as error:  # told to the other side, which raises it
        connection.send(f"{type(error).__name__}: {error}")
