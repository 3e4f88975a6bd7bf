# SPDX-License-Identifier: Apache-2.0
"""What the page says about a run, and when."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from denseg.report.classes import class_rows, mistakes
from denseg.report.facts import RunFacts, read_facts
from denseg.report.words import device_words, notes, summary
from denseg.runs import RunFolder


def told(run: RunFolder) -> tuple[RunFacts, tuple[str, ...], dict[str, tuple[str, str]]]:
    facts = read_facts(run)
    rows = class_rows(facts.headline, facts.history) if facts.headline else ()
    kinds = mistakes(facts.headline) if facts.headline else ()
    return facts, summary(facts, rows, kinds), {note.title: (note.level, note.text) for note in notes(facts, rows)}


def test_summary_says_what_was_reached(street_run: RunFolder) -> None:
    facts, (training, result, classes), _ = told(street_run)
    value = facts.headline
    assert value is not None
    assert training == "U-Net was trained on 24 images for 12 epochs, which took 4 min 18 s on a CPU."
    assert result == (
        f"On the 16 images of the val split, which it did not learn from, it labels "
        f"{100 * value['pixel_accuracy']:.0f}% of the pixels correctly. Averaged over the classes, "
        f"predicted and true regions overlap by "
        f"mIoU {value['miou']:.3f} (95% interval {value['interval'][0]:.3f} to {value['interval'][1]:.3f}); always "
        "answering the most frequent class would reach 0.061."
    )
    ranked = sorted(value["classes"], key=lambda entry: entry["iou"])
    assert classes.startswith(
        f"Best is {ranked[-1]['name']} (IoU {ranked[-1]['iou']:.2f}), "
        f"weakest {ranked[0]['name']} (IoU {ranked[0]['iou']:.2f})."
    )


def test_a_run_before_its_first_evaluation(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    _, texts, found = told(make_run(tmp_path, splits=(), epochs=0))
    assert texts == ("U-Net was trained on 24 images.", "It has not been evaluated yet.")
    assert found == {}


def test_test_comes_before_val(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    facts, texts, found = told(make_run(tmp_path, splits=("val", "test"), images=3, epochs=1))
    assert list(facts.evaluations) == ["test", "val"]
    assert "of the test split" in texts[1]
    assert "The score leans high" not in found
    assert found["Few images"][0] == "warning"


@pytest.mark.parametrize(
    ("changes", "title", "level", "part"),
    [
        ({"miou": 0.3, "interval": [0.05, 0.4]}, "Not clearly better than guessing", "error", "starts at 0.050"),
        ({"images": 5}, "Few images", "warning", "rests on 5 images"),
        ({}, "The score leans high", "info", "val split chose the best epoch"),
        ({"split": "train"}, "Scored on training images", "warning", "has seen these images"),
        ({"ignored_pixels": 10**9}, "Many pixels without a label", "info", "of the evaluated pixels are ignored"),
        (
            {"warnings": ["every pixel was predicted as 'sky'"]},
            "About the evaluation",
            "warning",
            "Every pixel was predicted as 'sky'.",
        ),
    ],
)
def test_notes_of_the_score(
    tmp_path: Path, make_run: Callable[..., RunFolder], changes: dict[str, Any], title: str, level: str, part: str
) -> None:
    _, _, found = told(make_run(tmp_path, images=4, epochs=2, evaluation=changes))
    assert found[title][0] == level
    assert part in found[title][1]


def test_an_incomplete_interval_is_none(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    facts, texts, _ = told(make_run(tmp_path, images=2, epochs=2, evaluation={"interval": [None, None], "miou": None}))
    assert facts.headline is not None
    assert facts.headline["interval"] is None
    assert "by mIoU –; always" in texts[1]  # noqa: RUF001


def test_classes_never_found_and_rare_ones_are_named(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    counts = [
        [1000, 0, 0, 0, 0, 0],
        [0, 1000, 0, 0, 0, 0],
        [9, 0, 0, 0, 0, 0],
        [0, 0, 0, 500, 0, 0],
        [12, 0, 0, 0, 4, 0],
        [0] * 6,
    ]
    run = make_run(tmp_path, images=2, epochs=2, evaluation={"confusion": counts, "split": "test"})
    document = run.evaluation("val")
    document["classes"][4]["iou"] = 0.25
    run.write_evaluation("val", document)
    _, _, found = told(run)
    assert found["Never found"] == ("warning", "Not one pixel of sky was labelled correctly, though there are some.")
    assert found["Rare and weak"][1].startswith("car (0.6% of the pixels, IoU 0.25). ")


def row(epoch: int, **values: float) -> dict[str, Any]:
    return {"stage": "train", "epoch": epoch, "seconds": 1.0} | values


def test_overfitting_is_told_with_its_numbers(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    run = make_run(tmp_path, images=2, epochs=1)
    run.write_metrics(
        [row(e, loss=1 / e, val_loss=0.5 + 0.1 * abs(e - 3), val_miou=0.6 - 0.01 * abs(e - 3)) for e in range(1, 11)]
    )
    _, _, found = told(run)
    assert found["Overfitting"] == (
        "warning",
        "Since epoch 3 the validation loss rose from 0.500 to 1.200 while the training loss fell. More images, "
        "stronger augmentation or a smaller model helps.",
    )
    assert "Still improving at the end" not in found


def test_a_rising_score_asks_for_longer_training(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    run = make_run(tmp_path, images=2, epochs=1)
    run.write_metrics([row(e, loss=1 / e, val_loss=1 / e, val_miou=0.04 * e) for e in range(1, 11)])
    _, _, found = told(run)
    assert found["Still improving at the end"] == (
        "info",
        "The last 2 epochs raised the validation mIoU by 0.080. Longer training may give more.",
    )
    assert "Overfitting" not in found


@pytest.mark.parametrize(
    ("status", "facts", "title", "level", "text"),
    [
        ("failed", {"message": "the loss is not finite"}, "Training failed", "error", "the loss is not finite"),
        ("failed", {}, "Training failed", "error", "It ended before the last epoch; --resume goes on."),
        ("interrupted", {}, "Training was interrupted", "warning", "The same command with --resume goes on."),
    ],
)
def test_notes_of_the_status(
    tmp_path: Path,
    make_run: Callable[..., RunFolder],
    status: Any,
    facts: dict[str, str],
    title: str,
    level: str,
    text: str,
) -> None:
    run = make_run(tmp_path, images=2, epochs=1)
    run.set_status(status, **facts)
    assert told(run)[2][title] == (level, text)


def test_gravest_first_and_findings_counted(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    finding = {"code": "c", "severity": "warning", "count": 1, "files": [], "message": "one is odd", "action": "look"}
    run = make_run(tmp_path, images=2, epochs=2, findings=[finding, finding, finding | {"severity": "info"}])
    facts = read_facts(run)
    levels = [note.level for note in notes(facts, ())]
    assert levels == sorted(levels, key=("error", "warning", "info", "good").index)
    assert told(run)[2]["2 warnings about the data"][1] == "One is odd. And 1 more, see Data."


def test_device_words() -> None:
    assert [device_words(name) for name in ("cpu", "cuda:1", "mps", "", "tpu")] == [
        "a CPU",
        "a GPU",
        "an Apple GPU",
        "",
        "tpu",
    ]
