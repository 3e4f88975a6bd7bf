# SPDX-License-Identifier: Apache-2.0
"""What a comparison found: a row per candidate, a test per pair, as text, CSV, Markdown, LaTeX and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from denseg.errors import RunError, UsageError
from denseg.metrics import PairedTest, adjust_p_values, bootstrap_ratios, paired_ratios
from denseg.runs import RunFolder

__all__ = ["Comparison", "Member", "judge"]

SCORES = ("miou", "boundary", "continuity")
_COLUMNS: tuple[tuple[str, str, str], ...] = (  # key, heading, form
    ("miou", "mIoU", "score"),
    ("boundary", "boundary IoU", "score"),
    ("continuity", "continuity", "score"),
    ("parameters", "parameters", "count"),
    ("macs", "MACs", "count"),
    ("latency", "latency", "time"),
    ("memory", "memory", "bytes"),
    ("images_per_second", "training images/s", "rate"),
    ("training_memory", "training memory", "bytes"),
)


@dataclass(frozen=True)
class Member:
    """A candidate with its finished trainings, one per seed."""

    name: str
    runs: tuple[RunFolder, ...]


@dataclass(frozen=True)
class Comparison:
    """Rows and tests.

    Attributes:
        split: What was scored.
        images: How many images.
        rows: Per candidate ``name``, for each of ``miou``, ``boundary`` and ``continuity`` ``{"mean", "low", "high",
            "seeds"}``, and its costs; best mIoU first.
        tests: Per pair of candidates and score: ``first``, ``second``, ``score``, the fields of ``PairedTest``, and
            ``adjusted`` p-value (Holm, over the pairs of a score).
    """

    split: str
    images: int
    rows: tuple[Mapping[str, Any], ...]
    tests: tuple[Mapping[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return {
            "split": self.split,
            "images": self.images,
            "rows": [dict(row) for row in self.rows],
            "tests": [dict(test) for test in self.tests],
        }

    def lines(self) -> list[str]:
        """Say it to a person: the table, then what the tests show."""
        cells = self._cells()
        widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
        lines = [
            "  ".join(
                cell.rjust(width) if at else cell.ljust(width)
                for at, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in cells
        ]
        lines.append(f"{self.split} split, {self.images} images; 95 % intervals")
        return lines + self._verdicts()

    def table(self, form: str) -> str:
        """Write the table.

        Args:
            form: ``csv`` (plain numbers), ``md`` or ``tex`` (as a person reads them).

        Returns:
            The text.

        Raises:
            UsageError: There is no such form.
        """
        if form == "csv":
            return self._csv()
        cells = self._cells()
        if form == "md":
            lines = [cells[0], ["---"] + ["---:"] * (len(cells[0]) - 1), *cells[1:]]
            return (
                "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
                + "\n"
            )
        if form == "tex":
            body = [" & ".join(_tex(cell) for cell in line) + r" \\" for line in cells]
            columns = "l" + "r" * (len(cells[0]) - 1)
            return (
                "\n".join(
                    [
                        rf"\begin{{tabular}}{{{columns}}}",
                        r"\hline",
                        body[0],
                        r"\hline",
                        *body[1:],
                        r"\hline",
                        r"\end{tabular}",
                    ]
                )
                + "\n"
            )
        raise UsageError(f"a table is written as csv, md or tex, got {form!r}")

    def _cells(self) -> list[list[str]]:
        shown = [column for column in _COLUMNS if any(_has(row, column[0]) for row in self.rows)]
        lines = [["model", *(title for _, title, _ in shown)]]
        lines += [[str(row["name"]), *(_shown(row.get(key), form) for key, _, form in shown)] for row in self.rows]
        return lines

    def _csv(self) -> str:
        fields = ["name", "seeds"]
        fields += [f"{key}_{part}" for key in SCORES for part in ("mean", "low", "high")]
        fields += [key for key, _, form in _COLUMNS if form != "score"]
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, fields, lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            values = {key: row.get(key) for key in fields if not isinstance(row.get(key), Mapping)}
            values["seeds"] = len(row["miou"]["seeds"])
            for key in SCORES:
                for part in ("mean", "low", "high"):
                    values[f"{key}_{part}"] = (row[key] or {}).get(part)
            writer.writerow({key: "" if value is None else value for key, value in values.items()})
        return buffer.getvalue()

    def _verdicts(self) -> list[str]:
        """One sentence per pair with the best."""
        if len(self.rows) < 2:
            return []
        best = self.rows[0]["name"]
        lines = []
        for test in self.tests:
            if test["score"] != "miou" or best not in (test["first"], test["second"]):
                continue
            other = test["second"] if test["first"] == best else test["first"]
            gain = abs(test["difference"])
            clear = test["adjusted"] < 0.05
            lines.append(
                f"{best} against {other}: {gain:+.3f} mIoU, p = {test['adjusted']:.3f}"
                + (
                    ""
                    if clear
                    else f"; not clear: this test shows differences from {test['smallest_difference']:.3f} on"
                )
            )
        return lines


def judge(members: Sequence[Member], split: str) -> Comparison:
    """Read the scores of all members and compare them pair by pair.

    Args:
        members: Candidates with finished and scored trainings.
        split: The scored split.

    Returns:
        The comparison.

    Raises:
        RunError: Two trainings were scored on different images.
    """
    loaded = [(member, [_counts(run, split) for run in member.runs]) for member in members]
    stems = loaded[0][1][0]["stems"].tolist() if loaded else []
    for member, arrays in loaded:
        for run, counts in zip(member.runs, arrays, strict=True):
            if counts["stems"].tolist() != stems:
                raise RunError(
                    f"{run.path} of {member.name} was scored on other images than {members[0].runs[0].path}; "
                    "start the comparison anew in another --out",
                    path=run.path,
                )
    rows = sorted((_row(member, arrays, split) for member, arrays in loaded), key=lambda row: -row["miou"]["mean"])
    return Comparison(split, len(stems), tuple(rows), tuple(_tests(loaded)))


def _tests(loaded: Sequence[tuple[Member, list[dict[str, NDArray[Any]]]]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for score in SCORES:
        of_score: list[dict[str, Any]] = []
        for (first, ours), (second, theirs) in combinations(loaded, 2):
            sides = [[_ratio(counts, score) for counts in side] for side in (ours, theirs)]
            if any(ratio is None for side in sides for ratio in side):
                continue
            a, b = ([ratio for ratio in side if ratio is not None] for side in sides)
            test = paired_ratios([r[:2] for r in a], [r[:2] for r in b], groups=a[0][2])
            of_score.append({"first": first.name, "second": second.name, "score": score, **_finite(test)})
        adjusted = adjust_p_values([test["p_value"] for test in of_score])
        found += [{**test, "adjusted": value} for test, value in zip(of_score, adjusted, strict=True)]
    return found


def _finite(test: PairedTest) -> dict[str, float]:
    return {key: float(value) if math.isfinite(value) else 1.0 for key, value in test._asdict().items()}


def _counts(run: RunFolder, split: str) -> dict[str, NDArray[Any]]:
    with np.load(run.counts_path(split), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _ratio(counts: Mapping[str, NDArray[Any]], score: str) -> tuple[NDArray[Any], NDArray[Any], list[str]] | None:
    """Numerators, denominators and groups of a score; ``None`` where it was not counted."""
    groups = counts["groups"].tolist()
    if score == "miou":
        return counts["right"], counts["labels"] + counts["predicted"] - counts["right"], groups
    if "looked" not in counts:
        return None
    near = [groups[index] for index in counts["looked"].tolist()]
    if score == "boundary":
        return counts["boundary"][:, 0], counts["boundary"][:, 1], near
    return counts["intact"], counts["components"], near


def _row(member: Member, arrays: Sequence[dict[str, NDArray[Any]]], split: str) -> dict[str, Any]:
    run = member.runs[0]
    row: dict[str, Any] = {"name": member.name, "runs": [str(one.path) for one in member.runs]}
    for score in SCORES:
        ratios = [ratio for counts in arrays if (ratio := _ratio(counts, score)) is not None]
        row[score] = _summary(ratios) if len(ratios) == len(arrays) else None
    facts = _inspected(run.path)
    speed = facts.get("speed") or {}
    epochs = [one for each in member.runs for one in each.metrics()]
    found = [one["images_per_second"] for one in epochs]
    rates = [float(value) for value in found if isinstance(value, int | float)]
    peaks: list[int | None] = [one.record().get("peak_memory_bytes") for one in member.runs]
    honesty = run.evaluation(split).get("calibration") or {}
    return row | {
        "parameters": facts.get("parameters"),
        "macs": facts.get("macs"),
        "size": facts.get("size"),
        "receptive_field": facts.get("receptive_field"),
        "latency": speed.get("seconds"),
        "memory": speed.get("memory"),
        "device": speed.get("device"),
        "images_per_second": median(rates) if rates else None,
        "training_memory": max((peak for peak in peaks if peak), default=None),
        "epochs": len(run.metrics()),
        "best_epoch": (run.record().get("best") or {}).get("epoch"),
        "calibration_error": honesty.get("expected_calibration_error"),
    }


def _summary(ratios: Sequence[tuple[NDArray[Any], NDArray[Any], list[str]]]) -> dict[str, Any] | None:
    """Mean over the seeds, and an interval of it: over images, and over seeds where there are three or more."""
    from scipy import stats

    one = [0] * len(ratios[0][0])
    scores = np.array([float(bootstrap_ratios(*ratio[:2], replicates=1, groups=one)[0]) for ratio in ratios])
    if not np.isfinite(scores).all():
        return None
    drawn = np.mean([bootstrap_ratios(*ratio[:2], groups=ratio[2]) for ratio in ratios], axis=0)
    mean = float(scores.mean())
    low, high = (float(end) for end in np.quantile(drawn, [0.025, 0.975]))
    if len(scores) >= 3:
        parts = [(float(drawn.var(ddof=1)), len(set(ratios[0][2])) - 1)]
        parts.append((float(scores.var(ddof=1)) / len(scores), len(scores) - 1))
        variance = sum(value for value, _ in parts)
        if variance > 0:
            freedom = variance**2 / sum(value**2 / max(count, 1) for value, count in parts)
            reach = float(stats.t.ppf(0.975, freedom)) * variance**0.5
            low, high = mean - reach, mean + reach
    return {"mean": mean, "low": low, "high": high, "seeds": [float(score) for score in scores]}


def _inspected(run: Path) -> dict[str, Any]:
    path = run.parent / f"{run.name}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _has(row: Mapping[str, Any], key: str) -> bool:
    return row.get(key) is not None


def _shown(value: Any, form: str) -> str:
    if value is None:
        return "-"
    if form == "score":
        return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
    if form == "time":
        return f"{1000 * value:.1f} ms"
    if form == "rate":
        return f"{value:.1f}"
    steps = ((1e9, " G"), (1e6, " M"), (1e3, " k")) if form == "count" else ((2**30, " GiB"), (2**20, " MiB"))
    for size, unit in steps:
        if value >= size:
            return f"{value / size:.3g}{unit}" if value / size < 1000 else f"{value / size:.0f}{unit}"
    return f"{value:.0f}"


def _tex(text: str) -> str:
    special = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\~{}"}
    return "".join(special.get(letter, letter) for letter in text)
