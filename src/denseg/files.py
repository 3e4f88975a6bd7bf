# SPDX-License-Identifier: Apache-2.0
"""Files that are written whole or not at all.

A result is written under a temporary name in its own folder, flushed to the disk, and renamed; a crash, a full disk
or a kill at any moment leaves the old file or the new one, never a torn one. A device, a pipe or a link is written to,
never replaced: ``--json /dev/null`` must not turn the device into a file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from denseg.errors import OutputError

__all__ = ["atomic_path", "make_folder", "sha256_of", "write_atomic", "write_json"]

_ADVICE = {
    errno.ENOSPC: "no space left on the disk; free some or choose another folder with --out",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder with --out",
    errno.EACCES: "permission denied; choose a folder you may write to with --out",
    errno.EPERM: "permission denied; choose a folder you may write to with --out",
    errno.EROFS: "the file system is read-only; choose another folder with --out",
    errno.EFBIG: "the file would be larger than the limit set for this process or file system",
    errno.EIO: "the disk reports an input/output error",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a file of that name is in the way of a folder",
    errno.ENAMETOOLONG: "the name is too long for this file system",
    errno.EMFILE: "too many open files; raise the limit of this process (ulimit -n) or use fewer workers",
}


def output_error(path: Path, error: OSError) -> OutputError:
    """Turn what the operating system said about a write into one clear line.

    Args:
        path: What was being written.
        error: What the operating system said.

    Returns:
        The error to raise.
    """
    reason = _ADVICE.get(error.errno or 0, error.strerror or str(error))
    return OutputError(f"cannot write {path}: {reason}", path=path)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; rename it to ``path`` when the block ends without an exception.

    Args:
        path: The final name. Its folder must exist. What a link points to is replaced, not the link.

    Yields:
        The temporary name to write to; the block may close it itself or leave it to be flushed here. A device or a
        pipe is given as it is.

    Raises:
        OutputError: The file cannot be written, flushed or renamed; the temporary file is gone then.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        try:
            yield path
        except OSError as error:
            raise output_error(path, error) from error
        return
    said = path
    if path.is_symlink():
        path = path.resolve()
    temporary = path.with_name(f".{path.name[:120]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OutputError:
        raise
    except OSError as error:
        raise output_error(said, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_atomic(path: Path, content: bytes | str | Callable[[IO[bytes]], object]) -> None:
    """Write a file whole or not at all.

    Args:
        path: Where; the folder must exist.
        content: Bytes, text (written as UTF-8), or a function that writes to the open binary file it is given.

    Raises:
        OutputError: The file cannot be written; what stood there before still stands.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        if callable(content):
            content(file)
        else:
            file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all; NaN and infinity are refused.

    Args:
        path: Where; the folder must exist.
        value: What ``json.dumps`` takes.

    Raises:
        OutputError: The file cannot be written.
        ValueError: The value holds NaN or infinity.
    """
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def make_folder(path: Path) -> Path:
    """Make a folder and those above it.

    Args:
        path: The folder; it may exist.

    Returns:
        The same path.

    Raises:
        OutputError: A file is in the way, or permission is denied.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(path, error) from error
    return path


def sha256_of(path: Path) -> str:
    """Give the SHA-256 of a file's bytes as 64 hexadecimal digits.

    Args:
        path: The file.

    Returns:
        The digest.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    """Flush the folder's entry of a renamed file; systems without that (Windows) go without."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
