# SPDX-License-Identifier: Apache-2.0
"""The page of a check: what the mask doctor found, with pictures of the files, and how the masks will be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from denseg.data.doctor.doctor import Examination
from denseg.files import write_atomic
from denseg.report.classes import hex_color
from denseg.report.numbers import plural
from denseg.report.page import render
from denseg.report.pixels import Color, distinct
from denseg.report.suspects import depth_words, example_shots, show_suspects

__all__ = ["render_check_page", "write_check_page"]

_SCRIPTS = ("page.js", "tables.js", "pictures.js")


@dataclass(frozen=True)
class _ClassShare:
    name: str
    color: str
    pixels: int
    shares: tuple[float | None, ...]


def write_check_page(examination: Examination, path: Path | str) -> Path:
    """Write the page of a check.

    Args:
        examination: What the mask doctor found.
        path: Where; its folder must exist.

    Returns:
        The page.

    Raises:
        OutputError: The page cannot be written.
    """
    page = Path(path)
    write_atomic(page, render_check_page(examination))
    return page


def render_check_page(examination: Examination) -> str:
    """Render the page of a check.

    Args:
        examination: What the mask doctor found.

    Returns:
        HTML that loads nothing.
    """
    inventory = examination.inventory
    colors = distinct(examination.classes.colors)
    splits = inventory.splits or ("all",)
    shots = example_shots(examination, colors)
    suspects = show_suspects(examination)
    severities: Counter[str] = Counter(finding.severity for finding in examination.findings)
    findings = [
        (finding, _names(examination, place), suspects.get(place, ()))
        for place, finding in enumerate(examination.findings)
    ]
    sections = [("summary", "Summary"), ("findings", "Findings")]
    sections += [("classes", "Classes")] * bool(len(examination.classes))
    sections += [("examples", "Examples")] * bool(shots)
    return render(
        "check.html.j2",
        scripts=_SCRIPTS,
        sections=sections,
        ok=examination.ok,
        name=inventory.root.resolve().name,
        root=str(inventory.root),
        base=f"{inventory.root}/",
        verdict=_verdict(severities),
        tiles=_tiles(examination),
        findings=findings,
        severities=severities,
        splits=splits,
        classes=_classes(examination, colors, splits),
        shots=shots,
        class_colors=list(zip(examination.classes.names, map(list, colors), strict=True)),
        legend=[(name, hex_color(color)) for name, color in zip(examination.classes.names, colors, strict=True)],
    )


def _verdict(severities: Counter[str]) -> str:
    if severities["error"]:
        return f"{plural(severities['error'], 'error')}: training would not start. Each says below what to do about it."
    if severities["warning"]:
        return f"Ready to train, with {plural(severities['warning'], 'warning')} worth reading first."
    return "Ready to train. Nothing speaks against it."


def _tiles(examination: Examination) -> list[tuple[str, str, str]]:
    inventory = examination.inventory
    parts = [f"{len(inventory.of(split)):,} {split}" for split in inventory.splits]
    lone = len(inventory.unpaired_images) + len(inventory.unpaired_masks)
    return [
        ("Pairs", f"{len(inventory.pairs):,}", ", ".join(parts) or "no split"),
        ("Usable", f"{len(examination.pairs):,}", "readable and of equal size"),
        ("Without partner", f"{lone:,}", "images or masks"),
        ("Classes", f"{len(examination.classes)}", f"label without class: {examination.classes.ignore_index}"),
        ("Bands", f"{examination.bands}", depth_words(examination.dtype)),
    ]


def _names(examination: Examination, place: int) -> list[str]:
    root = examination.inventory.root
    files = examination.findings[place].files
    return [path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path) for path in files]


def _classes(examination: Examination, colors: Sequence[Color], splits: Sequence[str]) -> list[_ClassShare]:
    total = examination.class_counts()
    by_split = [examination.class_counts(None if split == "all" else split) for split in splits]
    return [
        _ClassShare(
            name=name,
            color=hex_color(colors[index]),
            pixels=int(total[index]),
            shares=tuple(int(counts[index]) / int(counts.sum()) if counts.sum() else None for counts in by_split),
        )
        for index, name in enumerate(examination.classes.names)
    ]
