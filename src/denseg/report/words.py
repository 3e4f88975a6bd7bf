# SPDX-License-Identifier: Apache-2.0
"""The run in sentences: what was reached, and what deserves attention, each with the number it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from denseg.report.classes import ClassRow, Mistake
from denseg.report.facts import RunFacts
from denseg.report.history import History
from denseg.report.numbers import count, duration, plural, score, share

__all__ = ["Note", "notes", "summary"]

Level = Literal["error", "warning", "info", "good"]

_FEW_IMAGES = 20  # an interval resampled from fewer is itself uncertain
_CLEAR_GAIN = 0.005  # mIoU; less is within what one epoch changes by chance
_OVERFIT = 1.15  # validation loss over its lowest value
_RARE = 0.01  # share of labelled pixels


@dataclass(frozen=True)
class Note:
    """Something that deserves attention."""

    level: Level
    title: str
    text: str


def summary(facts: RunFacts, rows: tuple[ClassRow, ...], kinds: tuple[Mistake, ...]) -> tuple[str, ...]:
    """Tell the run in a few sentences.

    Args:
        facts: The run.
        rows: Its classes, empty before the first evaluation.
        kinds: Its mistakes, most frequent first.

    Returns:
        Paragraphs of plain text.
    """
    return tuple(filter(None, (_training(facts), _result(facts), _classes(rows, kinds))))


def notes(facts: RunFacts, rows: tuple[ClassRow, ...]) -> tuple[Note, ...]:
    """Find what deserves attention.

    Args:
        facts: The run.
        rows: Its classes.

    Returns:
        The notes, gravest first.
    """
    found = [*_status_notes(facts), *_score_notes(facts), *_class_notes(rows), *_training_notes(facts.history)]
    if facts.headline is not None:
        found += [Note("warning", "About the evaluation", _sentence(text)) for text in facts.headline["warnings"]]
    order: tuple[Level, ...] = ("error", "warning", "info", "good")
    return tuple(sorted(found, key=lambda note: order.index(note.level)))


def _training(facts: RunFacts) -> str:
    trained = facts.images.get("train", 0)
    seconds = facts.history.total("seconds")
    length = f" for {plural(len(facts.history), 'epoch')}" if len(facts.history) else ""
    time = f", which took {duration(seconds)}" if seconds else ""
    device = device_words(facts.device)
    where = f" on {device}" if device and time else ""
    return f"{facts.model} was trained on {plural(trained, 'image')}{length}{time}{where}."


def _result(facts: RunFacts) -> str:
    value = facts.headline
    if value is None:
        return "It has not been evaluated yet."
    seen = "which it did not learn from" if value["split"] != "train" else "which it also learned from"
    text = (
        f"On the {plural(value['images'], 'image')} of the {value['split']} split, {seen}, it "
        f"labels {share(value['pixel_accuracy'])} of the pixels correctly. Averaged over the classes, predicted and "
        f"true regions overlap by mIoU {score(value['miou'])}"
    )
    interval = value["interval"]
    if interval:
        text += f" (95% interval {score(interval[0])} to {score(interval[1])})"
    baseline = value["baseline_miou"]
    return text + (
        f"; always answering the most frequent class would reach {score(baseline)}." if baseline is not None else "."
    )


def _classes(rows: tuple[ClassRow, ...], kinds: tuple[Mistake, ...]) -> str:
    ranked = sorted((row for row in rows if row.iou is not None), key=lambda row: -(row.iou or 0.0))
    if len(ranked) < 2:
        return ""
    best, worst = ranked[0], ranked[-1]
    text = f"Best is {best.name} (IoU {score(best.iou, 2)}), weakest {worst.name} (IoU {score(worst.iou, 2)})."
    if kinds:
        first = kinds[0]
        text += (
            f" The most frequent mistake is {first.truth} taken for {first.prediction}: {share(first.share_of_errors)} "
            f"of all wrong pixels, {share(first.share_of_truth)} of {first.truth}."
        )
    return text


def _status_notes(facts: RunFacts) -> Iterator[Note]:
    status = facts.record.get("status")
    message = str(facts.record.get("message") or "")
    if status == "failed":
        yield Note("error", "Training failed", message or "It ended before the last epoch; --resume goes on.")
    elif status == "interrupted":
        yield Note("warning", "Training was interrupted", message or "The same command with --resume goes on.")
    findings = facts.check.get("findings", ()) if facts.check else ()
    grave = [finding for finding in findings if finding["severity"] in {"error", "warning"}]
    if grave:
        first = grave[0]["message"]
        more = f" And {len(grave) - 1} more, see Data." if len(grave) > 1 else ""
        yield Note("warning", f"{plural(len(grave), 'warning')} about the data", f"{_sentence(first)}{more}")


def _score_notes(facts: RunFacts) -> Iterator[Note]:
    value = facts.headline
    if value is None:
        return
    miou, baseline, interval = value["miou"], value["baseline_miou"], value["interval"]
    if miou is not None and baseline is not None and interval and interval[0] <= baseline < miou:
        yield Note(
            "error",
            "Not clearly better than guessing",
            f"The interval of the mIoU starts at {score(interval[0])}; always answering the most frequent class "
            f"reaches {score(baseline)}.",
        )
    if value["images"] < _FEW_IMAGES:
        yield Note(
            "warning",
            "Few images",
            f"The score rests on {plural(value['images'], 'image')}. With so few, the interval itself is uncertain.",
        )
    if value["split"] == "val":
        yield Note(
            "info",
            "The score leans high",
            "The val split chose the best epoch. A test split that decided nothing gives the score to report.",
        )
    if value["split"] == "train":
        yield Note("warning", "Scored on training images", "The model has seen these images; expect less on others.")
    ignored = value["ignored_pixels"] or 0
    labelled = sum(entry["pixels"] for entry in value["classes"])
    if ignored > 0.2 * (ignored + labelled):
        part = share(ignored / (ignored + labelled))
        yield Note("info", "Many pixels without a label", f"{part} of the evaluated pixels are ignored.")


def _class_notes(rows: tuple[ClassRow, ...]) -> Iterator[Note]:
    never = [row.name for row in rows if row.pixels and row.recall == 0]
    if never:
        yield Note(
            "warning",
            "Never found",
            f"Not one pixel of {_listed(never)} was labelled correctly, though there are some.",
        )
    rare = [row for row in rows if row.pixels and row.share < _RARE and row.recall and (row.iou or 0) < 0.5]
    if rare:
        named = _listed([f"{row.name} ({share(row.share)} of the pixels, IoU {score(row.iou, 2)})" for row in rare])
        yield Note(
            "info",
            "Rare and weak",
            f"{named}. More examples, a larger crop or a loss that weighs classes usually helps rare classes most.",
        )


def _training_notes(history: History) -> Iterator[Note]:
    scores = history.values("val_miou")
    if history.best is None or len(history) < 4:
        return
    best = history.best
    top = scores[best] or 0.0
    fifth = max(len(history) // 5, 1)
    earlier = [value for value in scores[: len(history) - fifth] if value is not None]
    if best >= len(history) - fifth and earlier and top - max(earlier) > _CLEAR_GAIN:
        yield Note(
            "info",
            "Still improving at the end",
            f"The last {plural(fifth, 'epoch')} raised the validation mIoU by {top - max(earlier):.3f}. Longer "
            "training may give more.",
        )
    losses = history.values("val_loss")
    there = [(value, at) for at, value in enumerate(losses) if value is not None]
    training = [value for value in history.values("loss") if value is not None]
    if not there or len(training) < 2:
        return
    lowest, at = min(there)
    last = there[-1][0]
    if last > _OVERFIT * lowest and at < 0.7 * len(history) and training[-1] < training[len(training) // 2]:
        yield Note(
            "warning",
            "Overfitting",
            f"Since epoch {history.epochs[at]} the validation loss rose from {score(lowest)} to {score(last)} while "
            "the training loss fell. More images, stronger augmentation or a smaller model helps.",
        )


def _listed(names: list[str], most: int = 6) -> str:
    shown = names[:most] if len(names) <= most + 1 else [*names[:most], f"{len(names) - most} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _sentence(text: str) -> str:
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def device_words(device: str) -> str:
    """Name a device as a person would: ``cpu`` is a CPU, ``cuda:0`` a GPU."""
    kinds = {"cpu": "a CPU", "cuda": "a GPU", "mps": "an Apple GPU"}
    return kinds.get(device.partition(":")[0], device)


def pixel_words(mapping: Mapping[str, Any]) -> str:
    """Say how many pixels an evaluation rests on."""
    return f"{count(sum(entry['pixels'] for entry in mapping['classes']))} labelled pixels"
