# SPDX-License-Identifier: Apache-2.0
"""From what a user names (files, folders, globs) to pictures, each with a name of its own for its results."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from denseg.data.folders.folder import IMAGE_FOLDERS, IMAGE_SUFFIXES, MASK_FOLDERS
from denseg.errors import DataError

__all__ = ["Picture", "find_pictures"]


@dataclass(frozen=True)
class Picture:
    """One picture to label.

    Attributes:
        path: The file.
        name: What its results are called, without suffix; unique among the pictures.
        page: Which page of a TIFF.
    """

    path: Path
    name: str
    page: int = 0


def find_pictures(inputs: Sequence[str | Path], *, leave_out: Path | None = None) -> tuple[Picture, ...]:
    """List the pictures that the inputs mean; no file is opened.

    Folders are listed with all that is below them. Where a folder holds both images and masks, masks are left out.

    Args:
        inputs: Files, folders, and patterns such as ``scans/*.tif``.
        leave_out: A folder whose files are no pictures to label: where the results go.

    Returns:
        Each file once, in the order of the inputs. Pictures of equal names get those of their folders, too, and then
        their suffix.

    Raises:
        DataError: An input is not there, or holds no picture.
    """
    found: dict[str, tuple[Path, tuple[str, ...]]] = {}
    skipped = None if leave_out is None else os.path.realpath(leave_out)
    for item in inputs:
        for path, below in _expand(str(item)):
            real = os.path.realpath(path)
            if skipped is not None and (real == skipped or real.startswith(skipped + os.sep)):
                continue
            found.setdefault(real, (path, below))
    if not found:
        listed = ", ".join(str(item) for item in inputs)
        raise DataError(f"no picture in {listed or 'no input'}: expected files such as .png, .jpg or .tif")
    return _named(list(found.values()))


def _expand(item: str) -> Iterable[tuple[Path, tuple[str, ...]]]:
    """Give each file of one input with the folders between the input and the file."""
    path = Path(item)
    if path.is_dir():
        yield from _list(path)
    elif path.exists() or path.is_symlink():
        yield path, ()
    elif glob.has_magic(item):
        matches = sorted(glob.glob(item, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        if not matches:
            raise DataError(f"no file matches {item}")
        for match in matches:
            if Path(match).is_dir():
                yield from _list(Path(match))
            elif Path(match).suffix.lower() in IMAGE_SUFFIXES:
                yield Path(match), ()
    else:
        raise DataError(f"there is no file or folder {item}", path=path)


def _list(root: Path) -> list[tuple[Path, tuple[str, ...]]]:
    files: list[tuple[Path, tuple[str, ...]]] = []
    for folder, below, names in os.walk(root):
        lower = {name.lower() for name in below}
        if lower & set(IMAGE_FOLDERS):
            below[:] = [name for name in below if name.lower() not in MASK_FOLDERS]
        below[:] = sorted(name for name in below if not name.startswith(".") and name != "__MACOSX")
        parts = Path(folder).relative_to(root).parts
        files += [
            (Path(folder) / name, parts)
            for name in sorted(names)
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
        ]
    return files


def _named(files: Sequence[tuple[Path, tuple[str, ...]]]) -> tuple[Picture, ...]:
    """Give names: the stem; with folders where stems are equal; with the suffix; at last with a number."""
    names = [path.stem for path, _ in files]
    for keep_suffix in (False, True):
        count = _count(names)
        names = [
            _long_name(path, below, keep_suffix) if count[name.lower()] > 1 else name
            for name, (path, below) in zip(names, files, strict=True)
        ]
    taken = {name.lower() for name in names}
    seen: set[str] = set()
    pictures = []
    for name, (path, _) in zip(names, files, strict=True):
        unique, number = name, 1
        while unique.lower() in seen or (number > 1 and unique.lower() in taken):
            number += 1
            unique = f"{name}-{number}"
        seen.add(unique.lower())
        pictures.append(Picture(path, unique))
    return tuple(pictures)


def _long_name(path: Path, below: tuple[str, ...], keep_suffix: bool) -> str:
    folders = below or path.absolute().parent.parts[-1:]
    return "-".join([*folders, path.name.replace(".", "-") if keep_suffix else path.stem]).strip("/")


def _count(names: Iterable[str]) -> Counter[str]:
    """Count names without case: two files must not become one where the file system has none."""
    return Counter(name.lower() for name in names)
