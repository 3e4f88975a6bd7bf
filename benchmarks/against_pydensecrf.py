# SPDX-License-Identifier: Apache-2.0
"""`dense_crf` and pydensecrf on one photograph: time, and the labels of both.

pydensecrf2 compiles the authors' C++; it is no dependency: ``pip install pydensecrf2`` into the environment of the
benchmark. Both build their lattices and run ten iterations on 500 x 375 pixels and 21 classes, as for PASCAL VOC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from benchmarks.harness import Case
from benchmarks.isolated import Isolated
from denseg.inference import CRF_PRESETS, dense_crf

__all__ = ["PEER", "agreement", "crf_cases"]

PEER = "pydensecrf2"
PRESETS = ("deeplab_v2", "deeplab_v1", "crf_rnn")
HEIGHT, WIDTH, CLASSES, ITERATIONS = 375, 500, 21, 10
GOAL = 0.5
LEAST_AGREEMENT = 0.999


def scene() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Make probabilities and a picture with the colours of a photograph: smooth fields, texture and sensor noise.

    Returns:
        ``(21, 375, 500)`` and ``(375, 500, 3)``.
    """
    rng = np.random.default_rng(0)
    size = (HEIGHT, WIDTH)
    fields = np.stack([gaussian_filter(rng.standard_normal(size), 25) for _ in range(CLASSES)])
    region = fields.argmax(axis=0)
    base = rng.integers(30, 226, (CLASSES, 3))[region].astype(np.float64)
    texture = np.stack([gaussian_filter(rng.standard_normal(size), 3) * 60 for _ in range(3)], axis=-1)
    image = np.clip(base + texture + rng.normal(0, 6, (*size, 3)), 0, 255).astype(np.uint8)
    scores = np.stack([gaussian_filter((region == k) + rng.normal(0, 1.5, size), 6) for k in range(CLASSES)]) * 12
    weights = np.exp(scores - scores.max(axis=0))
    return (weights / weights.sum(axis=0)).astype(np.float32), image


def crf_cases() -> Iterator[Case]:
    """Give one case per set of parameters.

    Yields:
        The cases; a case's processes live until the next one is asked for.

    Raises:
        RuntimeError: The labels differ.
    """
    for preset in PRESETS:
        same = agreement(preset)
        if same < LEAST_AGREEMENT:
            raise RuntimeError(f"{preset}: only {same:.5f} of the labels agree")
        with Isolated(_ours, preset) as ours, Isolated(_theirs, preset) as theirs:
            note = f"{HEIGHT}x{WIDTH}, {CLASSES} classes, {ITERATIONS} iterations; {100 * same:.4f} % of labels agree"
            yield Case(preset, ours, theirs, GOAL, note)


def agreement(preset: str) -> float:
    """Compare the labels.

    Args:
        preset: Which parameters.

    Returns:
        Share of equal labels.
    """
    probabilities, image = scene()
    ours = dense_crf(probabilities, image, preset, iterations=ITERATIONS).argmax(axis=0)
    return float((ours == _reference(probabilities, image, preset).argmax(axis=0)).mean())


def _ours(preset: str) -> Callable[[], object]:
    probabilities, image = scene()
    dense_crf(probabilities, image, preset, iterations=1)  # compiles
    return lambda: dense_crf(probabilities, image, preset, iterations=ITERATIONS)


def _theirs(preset: str) -> Callable[[], object]:
    probabilities, image = scene()
    return lambda: _reference(probabilities, image, preset)


def _reference(
    probabilities: npt.NDArray[np.float32], image: npt.NDArray[np.uint8], preset: str
) -> npt.NDArray[np.float32]:
    from pydensecrf import densecrf
    from pydensecrf.utils import unary_from_softmax

    parameters = CRF_PRESETS[preset]
    crf: Any = densecrf.DenseCRF2D(WIDTH, HEIGHT, CLASSES)
    crf.setUnaryEnergy(unary_from_softmax(probabilities))
    crf.addPairwiseGaussian(sxy=parameters.theta_gamma, compat=parameters.smoothness)
    crf.addPairwiseBilateral(
        sxy=parameters.theta_alpha, srgb=parameters.theta_beta, rgbim=image, compat=parameters.appearance
    )
    return np.asarray(crf.inference(ITERATIONS), np.float32).reshape(CLASSES, HEIGHT, WIDTH)
