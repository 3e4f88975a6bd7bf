# SPDX-License-Identifier: Apache-2.0
"""The temperature: found again where it is known, equal to a general optimiser's, and harmless to labels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, special

from denseg.errors import ShapeError, UsageError
from denseg.metrics import apply_temperature, expected_calibration_error, fit_temperature, negative_log_likelihood


def sample(temperature: float, seed: int = 0, pixels: int = 20000) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a model, and labels drawn from them divided by a temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (pixels, 5))
    honest = special.softmax(logits / temperature, axis=1)
    labels = (rng.random((pixels, 1)) > honest.cumsum(axis=1)).sum(axis=1).clip(max=4)
    return logits, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found(temperature: float) -> None:
    logits, labels = sample(temperature)
    probabilities = special.softmax(logits, axis=1)
    found = fit_temperature(probabilities, labels)
    assert found == pytest.approx(temperature, rel=0.05)

    def loss(beta: float) -> float:
        return float(-special.log_softmax(logits * beta, axis=1)[np.arange(len(labels)), labels].mean())

    best = optimize.minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-10})
    assert found == pytest.approx(1 / best.x, rel=1e-4)
    assert negative_log_likelihood(probabilities, labels, temperature=found) == pytest.approx(best.fun, rel=1e-9)


def test_it_is_the_softmax_of_divided_logits_and_keeps_the_order() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 4, (6, 9, 8))
    probabilities = special.softmax(logits, axis=0).astype(np.float32)
    for temperature in (0.3, 1.7, 10.0):
        scaled = apply_temperature(probabilities, temperature)
        assert scaled.dtype == np.float32
        np.testing.assert_allclose(scaled, special.softmax(logits / temperature, axis=0), atol=2e-6)
        assert np.array_equal(scaled.argmax(axis=0), probabilities.argmax(axis=0))
    assert apply_temperature(probabilities, 1.0) is probabilities
    assert np.isfinite(apply_temperature(np.array([[1.0], [0.0]], np.float32), 0.05)).all()


def test_it_mends_the_calibration() -> None:
    logits, labels = sample(3.0, seed=2)
    probabilities = special.softmax(logits, axis=1)
    mended = apply_temperature(probabilities, fit_temperature(probabilities, labels), axis=1)
    before, after = (
        expected_calibration_error(values.T[None, :, :, None], labels[None, :, None])
        for values in (probabilities, mended)
    )
    assert before > 0.1
    assert after < 0.02


def test_without_errors_it_stays_in_its_limits() -> None:
    sure = np.array([[0.9, 0.1], [0.2, 0.8]])
    assert fit_temperature(sure, [0, 1]) == pytest.approx(0.05, rel=1e-3)
    assert fit_temperature(sure, [1, 0]) == pytest.approx(20, rel=1e-3)


def test_faults_are_named() -> None:
    probabilities = np.full((3, 2), 0.5)
    with pytest.raises(UsageError, match=r"^a temperature needs at least one labelled pixel$"):
        fit_temperature(np.zeros((0, 2)), np.zeros(0, int))
    with pytest.raises(UsageError, match=r"^a temperature is positive, got 0$"):
        apply_temperature(probabilities, 0)
    message = r"^temperature takes probabilities \(M, K\) and integer target \(M,\), got \(3, 2\) and int64 \(2,\)$"
    with pytest.raises(ShapeError, match=message):
        fit_temperature(probabilities, np.array([0, 1]))
    with pytest.raises(ShapeError, match=r"^target must hold classes 0..1, got 2$"):
        fit_temperature(probabilities, np.array([0, 1, 2]))
