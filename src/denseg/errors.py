# SPDX-License-Identifier: Apache-2.0
"""The errors that denseg raises on purpose, each carrying its facts and the exit code of the command that meets it.

Every message says what was expected, what came and what to do. A command prints the message as one line and
exits with ``exit_code``; anything else that escapes is a defect of denseg.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DensegError",
    "ImageError",
    "InterruptedRunError",
    "MissingDependencyError",
    "OutputError",
    "RunError",
    "ShapeError",
    "TrainingError",
    "UnknownNameError",
    "UnsupportedError",
    "UsageError",
    "nearest_name",
]


class DensegError(Exception):
    """Base of every error that denseg raises on purpose.

    Attributes:
        exit_code: What the command line exits with: 1 the input is at fault, 2 wrong usage, 3 interrupted.
    """

    exit_code = 1


class UsageError(DensegError, ValueError):
    """The call itself is wrong: options that exclude each other, a value of the wrong form."""

    exit_code = 2


class ShapeError(DensegError, ValueError):
    """A tensor has another shape or dtype than the function takes."""


class UnsupportedError(DensegError, NotImplementedError):
    """What was asked for is meaningful, but this model, backbone or file cannot do it."""


class ConfigError(DensegError, ValueError):
    """A configuration key or value is unknown or out of range.

    Attributes:
        key: The dotted key at fault, for example ``train.epochs``; empty for the document as a whole.
    """

    exit_code = 2

    def __init__(self, message: str, *, key: str = "") -> None:
        """Keep the key."""
        super().__init__(message)
        self.key = key


class UnknownNameError(DensegError, LookupError):
    """A name is not in its catalog; the message proposes the nearest one.

    Attributes:
        kind: What the name should have been: ``model``, ``loss``, ``backbone``, ….
        name: The name that came.
        known: The names there are, sorted.
    """

    exit_code = 2

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        """Write the message from the facts."""
        self.kind = kind
        self.name = name
        self.known = tuple(sorted(known))
        near = nearest_name(name, self.known)
        hint = f" Did you mean {near!r}?" if near else ""
        listed = ", ".join(self.known) if len(self.known) <= 40 else f"{len(self.known)} names, see `denseg models`"
        super().__init__(f"no {kind} named {name!r}.{hint} Known: {listed}")

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, tuple[str, ...]]]:
        """Let the error cross from a worker process."""
        return type(self), (self.kind, self.name, self.known)


class DataError(DensegError):
    """The data a person brought cannot be used as it is.

    Attributes:
        path: The file or folder at fault, where there is one.
    """

    def __init__(self, message: str, *, path: Path | str | None = None) -> None:
        """Keep the path."""
        super().__init__(message)
        self.path = None if path is None else Path(path)


class ImageError(DataError):
    """One image or mask file cannot be read as pixels."""


class CheckpointError(DensegError):
    """A checkpoint is damaged, of another format, or does not fit the model.

    Attributes:
        path: The file at fault, where there is one.
    """

    def __init__(self, message: str, *, path: Path | str | None = None) -> None:
        """Keep the path."""
        super().__init__(message)
        self.path = None if path is None else Path(path)


class RunError(DensegError):
    """A run folder is missing, of a newer version, or would be overwritten.

    Attributes:
        path: The folder at fault, where there is one.
    """

    def __init__(self, message: str, *, path: Path | str | None = None) -> None:
        """Keep the path."""
        super().__init__(message)
        self.path = None if path is None else Path(path)


class TrainingError(DensegError):
    """Training cannot go on: loss not finite, no labelled pixel in an epoch, a loader worker died."""


class OutputError(DensegError, OSError):
    """A result cannot be written: no space left, no permission, not a folder.

    Attributes:
        path: The file or folder that could not be written.
    """

    def __init__(self, message: str, *, path: Path | str | None = None) -> None:
        """Keep the path."""
        super().__init__(message)
        self.path = None if path is None else Path(path)


class MissingDependencyError(DensegError, ImportError):
    """A part of denseg needs a package that is an extra; the message names the extra to install."""


class InterruptedRunError(DensegError):
    """Work stopped at the user's wish (Ctrl-C, SIGTERM) after saving; it can go on where it stopped."""

    exit_code = 3


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Find the known name that a misspelled one most likely meant.

    Args:
        name: The name that came.
        known: The names there are.

    Returns:
        The nearest known name, or ``None`` when nothing is near.
    """
    candidates = list(known)
    near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
    if near:
        return near[0]
    near = difflib.get_close_matches(name.lower(), [candidate.lower() for candidate in candidates], n=1, cutoff=0.6)
    return next((candidate for candidate in candidates if near and candidate.lower() == near[0]), None)
