# SPDX-License-Identifier: Apache-2.0
"""The trial: its arms, its scores and intervals, and one tiny run from data to table."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.trial_arms import ARMS, majority_filter
from benchmarks.trial_scores import SCORES, compare, estimate, image_statistics, score_of, stack

from benchmarks import trial, trial_table
from denseg.losses import LOSSES
from denseg.metrics import boundary_iou, continuity, scores_from_counts
from denseg.metrics.confusion import count_pairs
from denseg.models import MODELS


def maps(seed: int, errors: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = np.kron(rng.integers(0, 3, (4, 4)), np.ones((8, 8), int))
    wrong = rng.random(target.shape) < errors
    return np.where(wrong, rng.integers(0, 3, target.shape), target), target


def statistics(errors: float, *, seeds: int = 2, images: int = 6) -> dict[str, np.ndarray]:
    return stack([[image_statistics(*maps(100 * s + i, errors), 3, 255) for i in range(images)] for s in range(seeds)])


def test_every_arm_can_be_built() -> None:
    for name, arm in ARMS.items():
        if arm.base:
            assert not ARMS[arm.base].base
            assert arm.post is not None
        else:
            assert arm.model in MODELS, name
            assert arm.loss.keys() <= LOSSES.keys(), name


def test_the_majority_filter_votes() -> None:
    labels = np.zeros((9, 9), int)
    labels[4, 4] = 1
    labels[:, 6:] = 2
    probabilities = np.eye(3)[labels].transpose(2, 0, 1).astype(np.float32)
    voted = majority_filter(probabilities, np.zeros((9, 9, 1), np.uint8))
    assert voted[4, 4] == 0
    np.testing.assert_array_equal(voted[:, 6:], 2)
    np.testing.assert_array_equal(voted[:, :6], 0)


def test_scores_are_those_of_the_metrics() -> None:
    labels, target = maps(0)
    found = dict(zip(SCORES, score_of(image_statistics(labels, target, 3, 255)), strict=True))
    whole = continuity(labels, target, 3, min_size=4)
    assert found["miou"] == pytest.approx(scores_from_counts(count_pairs(labels, target, 3, 255)).miou)
    assert found["boundary_iou"] == pytest.approx(boundary_iou(labels, target, 3).mean)
    assert found["continuity"] == pytest.approx(whole.score)
    assert found["pieces"] == whole.pieces.sum() / whole.components.sum()
    assert found["holes"] == whole.holes.sum() / whole.components.sum()
    assert found["merges"] == whole.merges.sum() / whole.components.sum()


def test_intervals_hold_the_value_and_shrink_with_more_images() -> None:
    few, many = (estimate(statistics(0.2, images=n), replicates=200) for n in (4, 40))
    for result in (few, many):
        assert (result.low <= result.value + 1e-9).all()
        assert (result.high >= result.value - 1e-9).all()
    assert (many.high - many.low)[0] < (few.high - few.low)[0]
    assert few.seeds.shape == (2, len(SCORES))


def test_an_arm_equals_itself_and_a_better_one_is_told() -> None:
    one = statistics(0.3, seeds=1)
    same = compare(one, one, replicates=50)
    np.testing.assert_array_equal([same.value, same.low, same.high], 0)
    better = compare(statistics(0.05, seeds=1), one, replicates=100)
    assert better.low[0] > 0
    assert better.value[0] == pytest.approx(estimate(statistics(0.05, seeds=1)).value[0] - estimate(one).value[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arms", "fcm", "--steps", "1"], "no arm named 'fcm'; known: fcn; fcn + 5x5 majority; "),
        (["--arms", "fcn"], "give --steps or --minutes, and not both"),
        (["--arms", "fcn", "--steps", "1", "--minutes", "1"], "give --steps or --minutes, and not both"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert trial.main(arguments) == 2
    assert capsys.readouterr().err.startswith(message)


def test_a_tiny_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(trial, "SCENES", {"train": 4, "val": 2})
    started: list[str] = []

    def here(plan: Any, folder: Path, data: str, arm: str, seed: int, deadline: float | None) -> bool:
        started.append(arm)
        trial.run_one(plan, folder, data, arm, seed)
        return True

    monkeypatch.setattr(trial, "_in_process", here)
    written = tmp_path / "results"
    tables = functools.partial(trial_table.write_tables, folder=written)
    monkeypatch.setattr(trial, "write_tables", tables)
    arguments = ["--data", "scenes:object_size=16", "--arms", "fcn;fcn + 5x5 majority", "--seeds", "0", "--steps", "2"]
    arguments += ["--backbone", "test_resnet", "--batch", "2", "--crop", "64", "--work", str(tmp_path / "work")]
    arguments += ["--store", "tiny"]
    assert trial.main(arguments) == 0
    assert started == ["fcn"]
    document = json.loads((written / "tiny.json").read_text(encoding="utf-8"))
    arms = document["data"]["scenes:object_size=16"]["arms"]
    assert arms.keys() == {"fcn", "fcn + 5x5 majority"}
    facts = arms["fcn"]["facts"][0]
    assert facts["steps"] == 2
    assert min(facts[key] for key in ("parameters", "macs", "cpu_seconds")) > 0
    assert 0 <= facts["compactness"] <= 1
    text = (written / "tiny.md").read_text(encoding="utf-8")
    assert "| fcn + 5x5 majority less fcn | " in text
    assert str(tmp_path) not in text + json.dumps(document), "no path of this machine is stored"
    assert trial.main(arguments) == 0
    assert started == ["fcn"], "what is done is not done again"
    assert "tiny.md" in capsys.readouterr().out
