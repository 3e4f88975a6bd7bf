# SPDX-License-Identifier: Apache-2.0
"""One number that makes probabilities honest.

Definition:
    Temperature scaling, C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, Section 4.2: logits are
    divided by T > 0 before the softmax; T is what makes the log-likelihood of held-out labels largest. The order of the
    classes stays, so no label changes. Since softmax(log p / T) = softmax(z / T) for p = softmax(z), probabilities
    serve as well as logits, the mean of several views too.

Shape letters: M pixels, K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from denseg.errors import ShapeError, UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["apply_temperature", "fit_temperature", "negative_log_likelihood"]

LIMITS = (0.05, 20.0)
"""Temperatures looked at; where labels are all right or all wrong the likelihood has no inner maximum."""
_TINY = 1e-30  # the smallest probability told apart; float32 goes to 1e-38
_STEPS = 60  # of the golden section: the interval shrinks to 1e-12 of its width


def fit_temperature(probabilities: ArrayLike, target: ArrayLike) -> float:
    """Find the temperature under which labels are most likely.

    Args:
        probabilities: ``(M, K)``, rows summing to 1.
        target: ``(M,)`` classes in 0..K-1.

    Returns:
        T within ``LIMITS``: above 1 where the model is too sure of itself.

    Raises:
        ShapeError: The two do not fit, or a label is no class.
        UsageError: There is no pixel.
    """
    logs, truth = _check(probabilities, target)
    low, high = np.log(LIMITS[0]), np.log(LIMITS[1])
    golden = (5**0.5 - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    values = [_likelihood(logs, truth, float(np.exp(place))) for place in (left, right)]
    for _ in range(_STEPS):  # the mean log-likelihood has one maximum: it is concave in 1 / T
        if values[0] < values[1]:
            high, right, values[1] = right, left, values[0]
            left = high - golden * (high - low)
            values[0] = _likelihood(logs, truth, float(np.exp(left)))
        else:
            low, left, values[0] = left, right, values[1]
            right = low + golden * (high - low)
            values[1] = _likelihood(logs, truth, float(np.exp(right)))
    return float(np.exp((low + high) / 2))


def negative_log_likelihood(probabilities: ArrayLike, target: ArrayLike, *, temperature: float = 1.0) -> float:
    """Compute the mean negative log-likelihood of labels.

    Args:
        probabilities: ``(M, K)``, rows summing to 1.
        target: ``(M,)`` classes in 0..K-1.
        temperature: T.

    Returns:
        The mean over pixels, in nats.
    """
    logs, truth = _check(probabilities, target)
    return _likelihood(logs, truth, temperature)


def apply_temperature(
    probabilities: NDArray[np.floating], temperature: float, *, axis: int = 0
) -> NDArray[np.floating]:
    """Scale probabilities as if their logits had been divided by a temperature.

    Args:
        probabilities: Summing to 1 along ``axis``.
        temperature: T > 0; 1 gives the same array back.
        axis: Where the classes lie.

    Returns:
        The same shape and dtype, summing to 1 along ``axis``.

    Raises:
        UsageError: The temperature is not positive.
    """
    if not temperature > 0:
        raise UsageError(f"a temperature is positive, got {temperature}")
    if temperature == 1:
        return probabilities
    scaled = np.log(np.maximum(probabilities, _TINY)) / temperature
    scaled -= scaled.max(axis=axis, keepdims=True)
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(axis=axis, keepdims=True)
    result: NDArray[np.floating] = scaled.astype(probabilities.dtype, copy=False)
    return result


def _check(probabilities: ArrayLike, target: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    values, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(target)
    if values.ndim != 2 or truth.shape != values.shape[:1] or truth.dtype.kind not in "iu":
        raise ShapeError(
            f"temperature takes probabilities (M, K) and integer target (M,), got {values.shape} and "
            f"{truth.dtype} {truth.shape}"
        )
    if not truth.size:
        raise UsageError("a temperature needs at least one labelled pixel")
    if truth.min() < 0 or truth.max() >= values.shape[1]:
        raise ShapeError(f"target must hold classes 0..{values.shape[1] - 1}, got {int(truth.max())}")
    return np.log(np.maximum(values, _TINY)), truth.astype(np.int64)


def _likelihood(logs: NDArray[np.float64], truth: NDArray[np.int64], temperature: float) -> float:
    scaled = logs / temperature
    top = scaled.max(axis=1)
    total = np.log(np.exp(scaled - top[:, None]).sum(axis=1)) + top
    own = scaled[np.arange(len(truth)), truth]
    return float((total - own).mean())
