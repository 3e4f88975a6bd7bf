# SPDX-License-Identifier: Apache-2.0
"""Check a data folder: what is in it, how its masks will be read, and what speaks against training on it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from denseg.config import DataConfig
from denseg.data.doctor.clean import CleanCopy, write_clean_copy
from denseg.data.doctor.doctor import Examination, examine
from denseg.report.numbers import plural

__all__ = ["check", "copy_json", "copy_lines", "examination_json", "examination_lines", "fix"]

SHOWN_FILES = 3
SHOWN_CLASSES = 40


def check(
    path: Path | str,
    *,
    config: DataConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> Examination:
    """Read every picture and mask of a folder.

    Args:
        path: The data folder.
        config: What the user set; defaults where empty.
        progress: Called with pairs read and pairs in all.
        workers: Processes that read; as many as there are processors if empty.

    Returns:
        What was found; ``ok`` is false where training must not start.

    Raises:
        DataError: The folder does not exist, holds no picture, or its ``dataset.yaml`` is wrong.
    """
    return examine(path, config=config, progress=progress, workers=workers)


def fix(examination: Examination, out: Path | str, *, progress: Callable[[int, int], None] | None = None) -> CleanCopy:
    """Write a clean copy of a checked folder: usable pairs only, index masks, ``dataset.yaml``. Never in place.

    Args:
        examination: What was found.
        out: A folder that does not exist or is empty.
        progress: Called with pairs written and pairs in all.

    Returns:
        What was written.

    Raises:
        DataError: How masks are to be read is not settled, or no pair can be used.
        UsageError: ``out`` is not empty, or lies in the data folder.
    """
    return write_clean_copy(examination, Path(out), progress=progress)


def copy_json(copy: CleanCopy) -> dict[str, Any]:
    """Give a clean copy as JSON values: the ``fix`` part of what ``denseg check --fix --json`` writes.

    Args:
        copy: What was written.

    Returns:
        ``folder``, ``written``, ``rewritten``, ``left_out``.
    """
    return {
        "folder": str(copy.folder),
        "written": copy.written,
        "rewritten": copy.rewritten,
        "left_out": [str(path) for path in copy.left_out],
    }


def copy_lines(copy: CleanCopy) -> list[str]:
    """Say a clean copy in plain lines.

    Args:
        copy: What was written.

    Returns:
        Lines without line ends.
    """
    lines = [
        f"{copy.folder}: {plural(copy.written, 'pair')} written, {plural(copy.rewritten, 'picture')} changed in form"
    ]
    if copy.left_out:
        lines[0] += f", {len(copy.left_out)} left out"
        lines += [f"    {path}" for path in copy.left_out[:SHOWN_FILES]]
        if len(copy.left_out) > SHOWN_FILES:
            lines.append(f"    … and {len(copy.left_out) - SHOWN_FILES} more")
    return lines


def examination_json(examination: Examination) -> dict[str, Any]:
    """Give an examination as JSON values: what ``denseg check --json`` writes.

    Args:
        examination: What was found.

    Returns:
        ``ok`` and ``findings``, and beside them what training will use.
    """
    total = examination.class_counts()
    return {
        "ok": examination.ok,
        "findings": [finding.to_json() for finding in examination.findings],
        "path": str(examination.inventory.root),
        "layout": examination.inventory.layout,
        "pairs": len(examination.pairs),
        "splits": {
            split: len([p for p in examination.pairs if p.split == split]) for split in examination.inventory.splits
        },
        "classes": [
            {"name": name, "color": list(color), "pixels": int(pixels)}
            for name, color, pixels in zip(examination.classes.names, examination.classes.colors, total, strict=True)
        ],
        "ignore_index": examination.classes.ignore_index,
        "encoding": examination.encoding.to_json(),
        "bands": examination.bands,
        "dtype": examination.dtype,
        "fingerprint": dict(examination.fingerprint),
    }


def examination_lines(examination: Examination, *, width: int = 110) -> list[str]:
    """Say an examination in plain lines for a terminal.

    Args:
        examination: What was found.
        width: Columns.

    Returns:
        Lines without line ends.
    """
    inventory = examination.inventory
    splits = ", ".join(f"{len(inventory.of(split))} {split}" for split in inventory.splits) or "no split"
    lines = [f"{inventory.root}: {plural(len(inventory.pairs), 'pair')} ({splits}), read as {inventory.layout}"]
    for finding in examination.findings:
        lines += textwrap.wrap(
            f"{finding.severity}: {finding.message} [{finding.code}]",
            width,
            subsequent_indent="    ",
            break_on_hyphens=False,
        )
        lines += [f"    {file}" for file in finding.files[:SHOWN_FILES]]
        if len(finding.files) > SHOWN_FILES:
            lines.append(f"    … and {len(finding.files) - SHOWN_FILES} more")
        lines += textwrap.wrap(
            f"-> {finding.action}", width, initial_indent="    ", subsequent_indent="       ", break_on_hyphens=False
        )
    total = examination.class_counts()
    pixels = max(int(total.sum()), 1)
    longest = max((len(name) for name in examination.classes.names), default=0)
    for name, count in list(zip(examination.classes.names, total.tolist(), strict=True))[:SHOWN_CLASSES]:
        lines.append(f"  {name:<{longest}}  {100 * count / pixels:6.2f} %")
    if len(total) > SHOWN_CLASSES:
        lines.append(f"  … and {len(total) - SHOWN_CLASSES} more classes")
    errors = sum(finding.severity == "error" for finding in examination.findings)
    lines.append(
        "ready to train" if examination.ok else f"{errors} error{'s' if errors > 1 else ''}: training would not start"
    )
    return lines
