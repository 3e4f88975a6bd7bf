# SPDX-License-Identifier: Apache-2.0
"""What an evaluation tells beyond the counts: the metrics' own values, summed over images, and the temperature."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from denseg.metrics import bootstrap_ratios, boundary_iou, continuity, expected_calibration_error, size_recall
from denseg.training import details as module
from denseg.training.details import Details


def split(images: int = 5, temperature: float = 2.0) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Predictions, truths and probabilities of an overconfident model."""
    rng = np.random.default_rng(3)
    cases = []
    for _ in range(images):
        logits = np.repeat(np.repeat(rng.normal(0, 4, (3, 6, 8)), 8, axis=1), 8, axis=2)
        honest = special.softmax(logits / temperature, axis=0)
        truth = (rng.random(honest.shape[1:]) > honest.cumsum(axis=0)).sum(axis=0).clip(max=2)
        truth[:5] = 255
        cases.append((logits.argmax(axis=0), truth, special.softmax(logits, axis=0).astype(np.float32)))
    return cases


def filled(cases: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Details:
    details = Details(3, 255, len(cases))
    for prediction, truth, probabilities in cases:
        details.add(prediction, truth, probabilities)
    return details


def test_it_tells_what_the_metrics_say() -> None:
    cases = split()
    groups = ["a", "a", "b", "c", "d"]
    document = filled(cases).to_json(groups, 7)
    predictions, truths = (np.stack([case[index] for case in cases]) for index in (0, 1))
    boundary = boundary_iou(predictions, truths, 3)
    assert document["boundary"]["score"] == pytest.approx(boundary.mean)
    assert document["boundary"]["classes"] == pytest.approx(boundary.each)
    whole = continuity(predictions, truths, 3)
    assert document["continuity"]["score"] == pytest.approx(whole.score)
    single = [continuity(prediction, truth, 3) for prediction, truth, _ in cases]
    drawn = bootstrap_ratios([s.intact for s in single], [s.components for s in single], 7, groups=groups)
    assert document["continuity"]["interval"] == pytest.approx(np.quantile(drawn, [0.025, 0.975]))
    sizes = size_recall(predictions, truths, 3)
    assert [row["components"] for row in document["sizes"]] == sizes.components.tolist()
    for row, recall in zip(document["sizes"], sizes.recall, strict=True):
        assert row["recall"] is None if np.isnan(recall) else row["recall"] == pytest.approx(recall)
    probabilities = np.stack([case[2] for case in cases])
    error = expected_calibration_error(probabilities, truths)
    assert document["calibration"]["expected_calibration_error"] == pytest.approx(error, abs=1e-5)
    wrong = (predictions != truths)[truths != 255].mean()
    assert document["risk_coverage"]["risk"][-1] == pytest.approx(wrong, abs=1e-5)
    assert document["risk_coverage"]["coverage"][-1] == 1


def test_scaling_finds_the_temperature_and_tells_of_the_scaled() -> None:
    cases = split(images=12, temperature=3.0)
    details = filled(cases)
    before = details.to_json(["x"] * 12, 0)["calibration"]
    assert details.scale() == pytest.approx(3.0, rel=0.1)
    after = details.to_json(["x"] * 12, 0)["calibration"]
    assert after["temperature"] == details.temperature
    assert after["unscaled_error"] == pytest.approx(before["expected_calibration_error"], abs=1e-4)
    assert after["expected_calibration_error"] < 0.3 * after["unscaled_error"]
    scaled = Details(3, 255, 12, temperature=details.temperature)
    for prediction, truth, probabilities in cases:
        logs = np.log(probabilities) / details.temperature
        scaled.add(prediction, truth, special.softmax(logs, axis=0).astype(np.float32))
    assert scaled.entropy == pytest.approx(details.entropy, abs=2e-5)


def test_entropy_is_one_where_nothing_is_known_and_zero_where_all_is() -> None:
    details = Details(2, 255, 2)
    labels = np.zeros((4, 4), dtype=np.uint8)
    details.add(labels, labels, np.full((2, 4, 4), 0.5, np.float32))
    details.add(labels, labels, np.stack([np.ones((4, 4)), np.zeros((4, 4))]).astype(np.float32))
    details.add(labels, labels)
    assert details.entropy == [1.0, 0.0, None]


def test_of_a_large_split_evenly_chosen_images_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_LOOK", 3 * 48 * 64 * 3)
    cases = split(images=6)
    details = filled(cases)
    assert details.looked == [0, 2, 4]
    arrays = details.arrays()
    assert arrays["boundary"].shape == (3, 2, 3)
    assert details.to_json(["x"] * 6, 0)["boundary"]["images"] == 3


def test_without_probabilities_and_without_labels_parts_are_empty() -> None:
    details = Details(3, 255, 1)
    void = np.full((8, 8), 255, np.uint8)
    details.add(np.zeros((8, 8), np.uint8), void, np.full((3, 8, 8), 1 / 3, np.float32))
    assert details.scale() is None
    document = details.to_json(["x"], 0)
    assert document["calibration"] is None
    assert document["risk_coverage"] is None
    assert document["boundary"]["score"] is None
    assert Details(3, 255, 1).to_json([], 0)["sizes"] is None
