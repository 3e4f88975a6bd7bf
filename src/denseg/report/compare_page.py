# SPDX-License-Identifier: Apache-2.0
"""The page of a comparison: table, what the tests show, and score against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from denseg.files import write_atomic
from denseg.report.numbers import count, plural, score
from denseg.report.page import render
from denseg.report.scatter import scatter

__all__ = ["render_compare_page", "write_compare_page"]

_SCRIPTS = ("page.js", "tables.js")
_CLEAR = 0.05
_FEW_IMAGES = 20
_TITLES = {"miou": "mIoU", "boundary": "Boundary IoU", "continuity": "Continuity"}


def write_compare_page(document: Mapping[str, Any], path: Path | str) -> Path:
    """Write the page of a comparison.

    Args:
        document: What ``Comparison.to_json`` gave, with at least one row.
        path: Where; its folder must exist.

    Returns:
        The page.

    Raises:
        OutputError: The page cannot be written.
    """
    page = Path(path)
    write_atomic(page, render_compare_page(document, name=page.resolve().parent.name))
    return page


def render_compare_page(document: Mapping[str, Any], *, name: str) -> str:
    """Render the page of a comparison.

    Args:
        document: What ``Comparison.to_json`` gave, with at least one row.
        name: Of the comparison.

    Returns:
        HTML that loads nothing.
    """
    rows, tests = document["rows"], document["tests"]
    top = max((row[key]["high"] for row in rows for key in _TITLES if row[key]), default=1.0)
    pictures = [
        picture
        for key, title, unit, write, size in (
            ("parameters", "Score and parameters", "parameters", count, 1),
            ("macs", "Score and multiply-adds", "multiply-adds (MACs) for one image", count, 1),
            ("latency", "Score and time", "time of one image", _milliseconds, 1),
            ("memory", "Score and memory", "memory of one image", _mebibytes, 2**20),
        )
        if (
            picture := scatter(
                key,
                title,
                [
                    (
                        row["name"],
                        None if row[key] is None else row[key] / size,
                        *(row["miou"][part] for part in ("mean", "low", "high")),
                    )
                    for row in rows
                    if row["miou"]
                ],
                write=write,
                unit=unit,
            )
        )
    ]
    matrices = [
        (title, _matrix(rows, [test for test in tests if test["score"] == key]))
        for key, title in _TITLES.items()
        if any(test["score"] == key for test in tests)
    ]
    sections = [("summary", "Summary"), ("scores", "Scores")]
    sections += [("cost", "Cost")] * bool(pictures) + [("tests", "Tests")] * bool(matrices)
    return render(
        "compare.html.j2",
        scripts=_SCRIPTS,
        sections=sections,
        name=name,
        document=document,
        rows=rows,
        top=top or 1.0,
        pictures=pictures,
        matrices=matrices,
        summary=_summary(document),
        notes=_notes(document),
        milliseconds=_milliseconds,
        memory_words=memory_words,
        count=count,
    )


def _summary(document: Mapping[str, Any]) -> list[str]:
    rows, tests = document["rows"], document["tests"]
    best = rows[0]
    value = best["miou"]
    words = [
        f"Of {plural(len(rows), 'candidate')}, {best['name']} scores best: mIoU {score(value['mean'])} "
        f"(95% interval {score(value['low'])} to {score(value['high'])}) on the {plural(document['images'], 'image')} "
        f"of the {document['split']} split"
        + (f", the mean of {plural(len(value['seeds']), 'training')}." if len(value["seeds"]) > 1 else ".")
    ]
    with_best = [test for test in tests if test["score"] == "miou" and best["name"] in (test["first"], test["second"])]
    clear = [_other(test, best["name"]) for test in with_best if test["adjusted"] < _CLEAR]
    unclear = [test for test in with_best if test["adjusted"] >= _CLEAR]
    if clear:
        words.append(f"It is clearly better than {_listed(clear)}.")
    if unclear:
        smallest = max(test["smallest_difference"] for test in unclear)
        words.append(
            f"Against {_listed([_other(test, best['name']) for test in unclear])} the difference is not clear: these "
            f"images show differences from about {score(smallest)} on."
        )
    return words


def _notes(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    notes = []
    seeds = min(len(row["miou"]["seeds"]) for row in document["rows"] if row["miou"])
    if seeds < 3:
        notes.append(
            (
                "info",
                "These networks, not these ways to train",
                f"Each was trained with {plural(seeds, 'seed')}. Another seed gives another network: with --seeds 3 "
                "the tests count that, too.",
            )
        )
    if document["split"] == "val":
        notes.append(
            (
                "info",
                "The scores lean high",
                "The val split chose the best epochs; a test split would have chosen none.",
            )
        )
    if document["images"] < _FEW_IMAGES:
        notes.append(
            ("warning", "Few images", f"All rests on {plural(document['images'], 'image')}; intervals are rough then.")
        )
    return notes


def _matrix(rows: Sequence[Mapping[str, Any]], tests: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Any]]]:
    """Give each pair's test, seen from the row: its difference is row less column."""
    found = {}
    for test in tests:
        found[test["second"], test["first"]] = (test, 1)
        found[test["first"], test["second"]] = (test, -1)
    lines = []
    for row in rows:
        cells: list[Any] = []
        for column in rows:
            pair = found.get((row["name"], column["name"]))
            if pair is None:
                cells.append(None)
                continue
            test, sign = pair
            ends = sorted((sign * test["low"], sign * test["high"]))
            cells.append(
                {
                    "difference": sign * test["difference"],
                    "settled": test["adjusted"] < _CLEAR,
                    "p": "< 0.001" if test["adjusted"] < 0.001 else f"{test['adjusted']:.3f}",
                    "title": f"{row['name']} less {column['name']}: {sign * test['difference']:+.3f}, 95% interval "
                    f"{ends[0]:+.3f} to {ends[1]:+.3f}; smallest difference that shows: "
                    f"{test['smallest_difference']:.3f}",
                }
            )
        lines.append((row["name"], cells))
    return lines


def _other(test: Mapping[str, Any], name: str) -> str:
    return str(test["second"] if test["first"] == name else test["first"])


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _milliseconds(value: float) -> str:
    milliseconds = 1000 * value
    return f"{milliseconds:.3g} ms" if milliseconds < 1000 else f"{value:.3g} s"


def _mebibytes(value: float) -> str:
    return f"{value:,.3g} MiB" if value < 1000 else f"{value:,.0f} MiB"


def memory_words(value: float) -> str:
    """Write an amount of memory in binary units.

    Args:
        value: Bytes.

    Returns:
        For example ``340 MiB``.
    """
    return f"{value / 2**30:.3g} GiB" if value >= 2**30 else f"{value / 2**20:.3g} MiB"
