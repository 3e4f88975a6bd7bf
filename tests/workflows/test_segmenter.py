# SPDX-License-Identifier: Apache-2.0
"""Training, loading and predicting in three calls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from denseg.data.reading.images import read_image
from denseg.errors import CheckpointError
from denseg.workflows import Segmenter


def test_load_and_predict(tiny_run: Path, tiny_data: Path) -> None:
    segmenter = Segmenter.load(tiny_run, device="cpu")
    image = tiny_data / "images" / "val" / "val_000.png"
    labels = segmenter.predict(image)
    assert labels.shape == (48, 64)
    assert labels.dtype == np.uint8
    assert segmenter.path == tiny_run
    assert len(segmenter.classes) == 3
    np.testing.assert_array_equal(segmenter.predict(read_image(image)), labels)
    probabilities = segmenter.probabilities(image)
    assert probabilities.shape == (3, 48, 64)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(axis=0), labels)


def test_train_is_denseg_train(tiny_data: Path, tiny_run: Path, tiny_settings: tuple[str, ...], tmp_path: Path) -> None:
    """The same settings and seed give the same labels as the run that the command made."""
    segmenter = Segmenter.train(tiny_data, out=tmp_path / "run", settings=tiny_settings, device="cpu", progress=False)
    image = tiny_data / "images" / "val" / "val_001.png"
    np.testing.assert_array_equal(segmenter.predict(image), Segmenter.load(tiny_run).predict(image))


def test_missing_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing"):
        Segmenter.load(tmp_path / "nothing")


def test_lazy_name() -> None:
    import denseg.workflows

    with pytest.raises(AttributeError, match=r"^module 'denseg.workflows' has no attribute 'Segmentor'$"):
        denseg.workflows.Segmentor  # noqa: B018 - the access is the test
