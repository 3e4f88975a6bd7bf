# SPDX-License-Identifier: Apache-2.0
"""The page of a run: everything a person wants to see of it, in one file."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from denseg.config import RunConfig, dump_config
from denseg.files import write_atomic
from denseg.report.borders import border_errors
from denseg.report.charts import strip
from denseg.report.classes import ClassRow, class_rows, confusion_table, mistakes
from denseg.report.facts import RunFacts, read_facts
from denseg.report.history import history_charts
from denseg.report.numbers import count, plural, score
from denseg.report.page import render
from denseg.report.pictures import take_shots
from denseg.report.trust import object_words, size_bands, trust
from denseg.report.words import notes, pixel_words, summary
from denseg.runs import RunFolder

__all__ = ["render_report", "write_report"]

_LEGEND = 40  # classes
_SCRIPTS = ("page.js", "charts.js", "tables.js", "pictures.js")


def write_report(run: RunFolder | Path | str) -> Path:
    """Write ``report.html`` of a run; it may be running, interrupted or finished, evaluated or not.

    Args:
        run: The run, or its folder.

    Returns:
        The page.

    Raises:
        RunError: There is no run, or a file of it is damaged.
        OutputError: The page cannot be written.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder.open(run)
    write_atomic(folder.report_path, render_report(read_facts(folder)))
    return folder.report_path


def render_report(facts: RunFacts) -> str:
    """Render the page of a run.

    Args:
        facts: The run.

    Returns:
        HTML that loads nothing.
    """
    value = facts.headline
    charts = history_charts(facts.history, baseline=value["baseline_miou"] if value else None)
    shown: dict[str, Any] = {"value": value, "rows": (), "groups": (), "mistakes": (), "pixels": "", "trust": None}
    if value is not None:
        shown |= _results(facts, value)
    sections = [("summary", "Summary")]
    sections += [("training", "Training")] * bool(charts)
    sections += [("classes", "Classes"), ("errors", "Errors")] * bool(shown["rows"])
    sections += [("trust", "Trust")] * bool(shown["trust"])
    sections += [("images", "Images")] * bool(shown["groups"])
    sections += [("data", "Data"), ("setup", "Setup"), ("replay", "Replay")]
    return render(
        "run.html.j2",
        scripts=_SCRIPTS,
        sections=sections,
        facts=facts,
        data_name=facts.data_name,
        data_base=f"{facts.config.data.path}/" if facts.config.data.path else "",
        meta=_meta(facts),
        status=_status(facts),
        summary=summary(facts, shown["rows"], shown["mistakes"]),
        notes=notes(facts, shown["rows"]),
        splits=tuple(facts.evaluations.values()),
        charts=charts,
        training_words=_training_words(facts),
        findings=tuple(facts.check.get("findings", ())) if facts.check else (),
        data_words=_data_words(facts),
        data_facts=_data_facts(facts, value),
        changed=_changed(facts),
        samples=_samples(facts.run.samples_path),
        config_text=dump_config(facts.config),
        environment=_environment(facts),
        commands=_commands(facts),
        replay_words=_replay_words(facts),
        **shown,
    )


def _results(facts: RunFacts, value: Mapping[str, Any]) -> dict[str, Any]:
    rows = class_rows(value, facts.history)
    matrix = confusion_table(value)
    ious = {row.name: row.iou for row in rows}
    scores = [entry["miou"] for entry in value["per_image"] if entry["miou"] is not None]
    spread = strip(scores) if len(scores) >= 8 else None
    return {
        "rows": rows,
        "has_sparks": any(row.spark for row in rows),
        "matrix": matrix,
        "matrix_data": {
            "names": matrix.names,
            "counts": [[cell.pixels for cell in row] for row in matrix.rows],
            "iou": [ious.get(name) for name in matrix.names],
        },
        "mistakes": mistakes(value, most=12 if matrix.wide else 6 if len(rows) <= 8 else 8),
        "borders": border_errors(facts),
        "sizes": size_bands(value),
        "size_words": object_words(value),
        "trust": trust(value),
        "whole": _whole(value),
        "groups": take_shots(facts, [tuple(entry["color"]) for entry in value["classes"]]),
        "class_colors": [(entry["name"], entry["color"]) for entry in value["classes"]],
        "legend": [(row.name, row.color) for row in _occurring(rows)],
        "spread": spread,
        "spread_title": f"mIoU of the {len(scores)} images",
        "spread_words": f"mIoU of single images: from {score(min(scores))} to {score(max(scores))}, "
        f"median {spread.median_label}."
        if spread
        else "",
        "pixels": pixel_words(value),
    }


def _whole(value: Mapping[str, Any]) -> list[tuple[str, float, tuple[float, float] | None, str]]:
    """Name, score, interval and meaning of what is told beside the IoU."""
    kinds = (
        ("boundary", "Boundary IoU", "only near the borders of regions"),
        ("continuity", "Whole objects", "found in one piece, alone, without holes"),
    )
    found = []
    for key, title, words in kinds:
        part = value.get(key)
        if part and part["score"] is not None:
            ends = part["interval"]
            found.append((title, part["score"], None if None in ends else (ends[0], ends[1]), words))
    return found


def _occurring(rows: tuple[ClassRow, ...]) -> list[ClassRow]:
    """The classes that a legend needs: those that occur, of very many the most frequent."""
    there = [row for row in rows if row.pixels or row.precision is not None]
    often = sorted(there, key=lambda row: -row.pixels)[:_LEGEND]
    return [row for row in rows if row in often]


def _meta(facts: RunFacts) -> tuple[str, ...]:
    when = str(facts.environment.get("started") or facts.record.get("created") or "")
    return tuple(filter(None, (f"Run {facts.name}", _day(when))))


def _status(facts: RunFacts) -> tuple[str, str]:
    """How far the run got, and the tone that goes with it."""
    status = str(facts.record.get("status") or "starting")
    tones = {"finished": "good", "failed": "error", "interrupted": "warning"}
    return tones.get(status, "info"), status


def _day(stamp: str) -> str:
    try:
        moment = datetime.fromisoformat(stamp)
    except ValueError:
        return ""
    return f"{moment.day} {moment:%B %Y, %H:%M}" + (" UTC" if moment.utcoffset() is not None else "")


def _training_words(facts: RunFacts) -> str:
    history = facts.history
    if history.best is None:
        return ""
    name = {"miou": "mIoU"}.get(facts.config.train.metric, facts.config.train.metric)
    miou = history.values("val_miou")[history.best]
    return (
        f"Best {name} on the validation images after epoch {history.epochs[history.best]} (mIoU {score(miou)}); the "
        "weights of that epoch are scored below."
    )


def _data_words(facts: RunFacts) -> str:
    total = sum(facts.images.values())
    parts = [f"{number:,} {split}" for split, number in facts.images.items()]
    return f"{plural(total, 'image')}: {', '.join(parts)}." if total else ""


def _data_facts(facts: RunFacts, value: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    result = [(f"{split} images", f"{number:,}") for split, number in facts.images.items()]
    if facts.config.data.path:
        result.insert(0, ("folder", facts.config.data.path))
    result.append(("classes", f"{len(facts.classes)}"))
    result.append(("label without class", str(facts.classes.ignore_index)))
    if value is not None:
        labelled = sum(entry["pixels"] for entry in value["classes"])
        result.append((f"pixels scored, {value['split']}", count(labelled)))
        if value["ignored_pixels"] is not None:
            result.append((f"pixels ignored, {value['split']}", count(value["ignored_pixels"])))
    return result


def _changed(facts: RunFacts) -> list[tuple[str, str, str]]:
    """List what differs from the defaults, with the planner's reason where it decided."""
    values, defaults = facts.config.model_dump(mode="json"), RunConfig().model_dump(mode="json")
    reasons = {str(row["key"]): str(row["reason"]) for row in facts.environment.get("plan") or ()}
    return [
        (key, text, reasons.get(key, ""))
        for key, text in _flat(values).items()
        if _flat(defaults).get(key) != text and key != "data.path"
    ]


def _samples(path: Path) -> str:
    """Give the sheet of augmented samples as an address that holds it; empty where the run has none."""
    try:
        return "data:image/webp;base64," + base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return ""


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, inner in value.items():
        name = f"{prefix}{key}"
        if isinstance(inner, Mapping) and inner:
            flat |= _flat(inner, f"{name}.")
        else:
            flat[name] = "none" if inner is None else str(inner)
    return flat


def _environment(facts: RunFacts) -> list[tuple[str, str]]:
    values = facts.environment
    titles = {
        "denseg": "denseg",
        "commit": "commit",
        "python": "Python",
        "platform": "system",
        "processor": "processor",
        "cores": "cores",
        "memory_bytes": "memory",
        "precision": "precision",
        "folder": "started in",
    }
    result = []
    for key, title in titles.items():
        value = values.get(key)
        if key == "commit":
            value = str(value or "")[:12]
        if value not in (None, ""):
            result.append((title, f"{value / 2**30:.1f} GiB" if key == "memory_bytes" else str(value)))
    if facts.device:
        result.append(("device", facts.device))
    for key, title in (("threads", "threads"), ("world_size", "processes")):
        if facts.record.get(key):
            result.append((title, str(facts.record[key])))
    packages = values.get("packages") or {}
    if packages:
        result.append(("packages", ", ".join(f"{name} {version}" for name, version in packages.items())))
    return result


def _commands(facts: RunFacts) -> list[tuple[str, str]]:
    run = shlex.quote(str(facts.run.path))
    data = shlex.quote(facts.config.data.path or "DATA")
    commands = []
    if facts.environment.get("command"):
        commands.append(("Train again", str(facts.environment["command"])))
    if facts.headline is not None:
        commands.append(("Score again", f"denseg eval {run} {data} --split {facts.headline['split']}"))
    if facts.run.has_checkpoint:
        commands.append(("Use the model", f"denseg predict {run} IMAGES --out predictions"))
    return commands


def _replay_words(facts: RunFacts) -> str:
    commit = str(facts.environment.get("commit") or "")[:12]
    source = f"denseg {facts.environment.get('denseg', '')}" + (f" at {commit}" if commit else "")
    return f"The same seed ({facts.config.seed}), data and versions ({source}) give the same weights on a CPU."
