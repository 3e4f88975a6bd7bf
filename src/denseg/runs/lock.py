# SPDX-License-Identifier: Apache-2.0
"""One process at a time in a run folder; the lock dies with its process, whatever killed it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from denseg.errors import RunError
from denseg.files import output_error

__all__ = ["LOCK_NAME", "lock_run"]

LOCK_NAME = ".lock"


@contextmanager
def lock_run(path: Path) -> Iterator[None]:
    """Hold a run folder while the block runs.

    Args:
        path: The folder; it exists.

    Yields:
        Nothing.

    Raises:
        RunError: Another process trains in this folder.
        OutputError: The lock file cannot be written.
    """
    try:
        descriptor = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise output_error(path / LOCK_NAME, error) from error
    try:
        try:
            _lock(descriptor)
        except BlockingIOError as error:
            raise RunError(
                f"another process is training in {path}; wait for it, or choose another --out", path=path
            ) from error
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Take the lock or raise BlockingIOError; a file system without locks goes without."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error
        return
    import fcntl

    # A record lock, not flock: it is not inherited by the loader's workers, so a killed run leaves none behind.
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise BlockingIOError from error
    except OSError:
        return
