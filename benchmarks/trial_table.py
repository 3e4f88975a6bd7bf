# SPDX-License-Identifier: Apache-2.0
"""The tables of the trial, as JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import RESULTS, machine
from benchmarks.trial_scores import SCORES, Difference, Estimate, compare, estimate, stack

__all__ = ["write_tables"]

Records = Mapping[str, Mapping[str, Sequence[Any]]]

ABLATIONS = (
    ("hdnet", "hdnet without LAA"),
    ("hdnet", "hdnet without HFD"),
    ("hdnet", "hdnet without both"),
    ("fcn, CE + HFD", "fcn"),
)

NOTES = """\
Every arm: the same pictures, crops, order of samples, steps and seeds; last weights, no choice of an epoch; a backbone
without pretraining. mIoU, boundary IoU (`bIoU`) and the share of objects that stay whole and alone (`intact`) are
better when larger; pieces per object are best at 1, holes and merges at 0. `compact` is the share of the features'
scatter that lies between classes. Intervals are 95 % bootstrap intervals over pictures and seeds together; frames of
one video are not independent, so that for CamVid they are too narrow, and one seed says nothing about seeds.
Differences whose interval leaves out 0 are bold; many are tested, so that some are bold by chance. Time and memory were
taken on the machine as it was: processor time of one thread for the whole run, with checks and validations; growth of
the process's memory."""


def write_tables(
    name: str, records: Records, facts: Mapping[str, Any], *, baseline: str, folder: Path = RESULTS
) -> tuple[Path, Path]:
    """Write what the trial gave.

    Args:
        name: File name without ending.
        records: Data set to arm to the records of its seeds.
        facts: What all arms share.
        baseline: Arm that the others are compared with.
        folder: Where.

    Returns:
        The JSON and the Markdown file.
    """
    document: dict[str, Any] = {
        "title": "Trial: do attention and centres keep objects whole?",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commits": sorted(
            {r["facts"]["commit"] for arms in records.values() for found in arms.values() for r in found}
        ),
        "machine": machine(),
        "facts": dict(facts),
        "scores": list(SCORES),
        "data": {},
    }
    lines = [f"# {document['title']}", "", NOTES, "", _about(document), ""]
    for data, arms in records.items():
        statistics = {arm: stack([record["images"] for record in found]) for arm, found in arms.items()}
        estimates = {arm: estimate(value) for arm, value in statistics.items()}
        pairs = [(arm, baseline) for arm in arms if arm != baseline and baseline in arms]
        pairs += [pair for pair in ABLATIONS if pair not in pairs and all(arm in arms for arm in pair)]
        differences = {pair: compare(statistics[pair[0]], statistics[pair[1]]) for pair in pairs}
        document["data"][data] = {
            "arms": {arm: _json(estimates[arm], found) for arm, found in arms.items()},
            "differences": [_difference_json(pair, value) for pair, value in differences.items()],
        }
        lines += [f"## {data}", "", *_table(estimates, arms), "", *_differences(differences), ""]
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{name}.json", folder / f"{name}.md"
    paths[0].write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    paths[1].write_text("\n".join(lines), encoding="utf-8")
    return paths


def _about(document: Mapping[str, Any]) -> str:
    facts, where = document["facts"], document["machine"]
    return (
        f"{document['date']}, commit {', '.join(document['commits'])}: {facts['backbone']} at output stride 8, "
        f"{facts['budget']} of {facts['batch']} crops of {facts['crop']}x{facts['crop']}, AdamW at "
        f"{facts['learning_rate']:g}; "
        f"{where['processor']}, torch {where['torch']}, load {where['load_before']}."
    )


def _table(estimates: Mapping[str, Estimate], arms: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    yield (
        "| arm | seeds | mIoU | over seeds | bIoU | intact | pieces | holes | merges | compact | parameters | MACs | "
        "time | memory |"
    )
    yield "| --- |" + " --- |" * 13
    for arm, found in sorted(arms.items(), key=lambda item: -float(estimates[item[0]].value[0])):
        result, facts = estimates[arm], [record["facts"] for record in found]
        shown = [_interval(result.value[i], result.low[i], result.high[i]) for i in range(len(SCORES))]
        seeds = f"{result.seeds[:, 0].min():.3f}-{result.seeds[:, 0].max():.3f}"
        compact = _mean(facts, "compactness")
        yield (
            f"| {arm} | {len(found)} | {shown[0]} | {seeds} | {' | '.join(shown[1:])} | "
            f"{'-' if compact is None else f'{compact:.2f}'} | {facts[0]['parameters'] / 1e6:.2f} M | "
            f"{facts[0]['macs'] / 1e9:.2f} G | {_mean(facts, 'cpu_seconds'):.0f} s | "
            f"{(_mean(facts, 'memory') or 0) / 2**20:.0f} MiB |"
        )


def _differences(differences: Mapping[tuple[str, str], Difference]) -> Iterator[str]:
    yield "| difference | mIoU | bIoU | intact | pieces | holes | merges |"
    yield "| --- |" + " --- |" * len(SCORES)
    for (arm, other), result in differences.items():
        cells = []
        for i in range(len(SCORES)):
            clear = result.low[i] > 0 or result.high[i] < 0
            text = f"{result.value[i]:+.3f} ({result.low[i]:+.3f} to {result.high[i]:+.3f})"
            cells.append(f"**{text}**" if clear else text)
        yield f"| {arm} less {other} | {' | '.join(cells)} |"


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.3f} ({low:.3f}-{high:.3f})"


def _mean(facts: Sequence[Mapping[str, Any]], key: str) -> float | None:
    known = [fact[key] for fact in facts if fact.get(key) is not None]
    return float(np.mean(known)) if known else None


def _json(result: Estimate, found: Sequence[Any]) -> dict[str, Any]:
    return {
        "seeds": [record["seed"] for record in found],
        "value": _list(result.value),
        "low": _list(result.low),
        "high": _list(result.high),
        "each_seed": [_list(row) for row in result.seeds],
        "facts": [record["facts"] for record in found],
    }


def _difference_json(pair: tuple[str, str], result: Difference) -> dict[str, Any]:
    return {
        "arm": pair[0],
        "less": pair[1],
        "value": _list(result.value),
        "low": _list(result.low),
        "high": _list(result.high),
    }


def _list(values: Any) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 5) for value in values]
