# SPDX-License-Identifier: Apache-2.0
"""Errors by distance to a border, against distances counted by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from denseg.report.borders import _spread, border_errors, count_by_distance
from denseg.report.facts import read_facts
from denseg.runs import RunFolder


def halves(height: int = 4, width: int = 100) -> np.ndarray:
    """Left half class 0, right half class 1: the pixels beside the border stand in columns 49 and 50."""
    return np.repeat((np.arange(width) >= width // 2).astype(np.uint8)[None], height, axis=0)


def test_pixels_are_counted_by_distance() -> None:
    counts = count_by_distance(halves(), halves(), 2)
    assert counts is not None
    assert counts[:, 0].tolist() == [8, 8, 16, 32, 64, 128, 4 * 2 * (50 - 32)]
    assert counts[:, 1].sum() == 0


@pytest.mark.parametrize(
    ("column", "band"),
    [(49, 0), (48, 1), (47, 2), (46, 2), (45, 3), (42, 3), (41, 4), (34, 4), (33, 5), (18, 5), (17, 6), (0, 6)],
)
def test_an_error_falls_into_its_band(column: int, band: int) -> None:
    prediction = halves()
    prediction[:, column] ^= 1
    counts = count_by_distance(halves(), prediction, 2)
    assert counts is not None
    assert counts[:, 1].tolist() == [4 if index == band else 0 for index in range(7)]


def test_pixels_without_label_count_nowhere_and_make_no_border() -> None:
    truth = np.full((8, 8), 1, np.uint8)
    truth[:, 4:] = 255
    assert count_by_distance(truth, truth, 2) is None
    truth = halves(8, 20)
    truth[:2] = 255
    counts = count_by_distance(truth, np.zeros_like(truth), 2)
    assert counts is not None
    assert counts[:, 0].sum() == 6 * 20
    assert counts[:, 1].sum() == 6 * 10


def test_one_region_has_no_border() -> None:
    assert count_by_distance(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8), 2) is None


def test_inexact_borders_are_told_from_wrong_regions(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    run = make_run(tmp_path, images=3, epochs=1)
    facts = read_facts(run)
    data = Path(facts.config.data.path or "")
    for index in range(3):
        truth = np.asarray(Image.open(data / f"masks/val/val_00{index}.png"))
        shifted = np.roll(truth, 1, axis=1)
        shifted[shifted == 255] = 0
        Image.fromarray(shifted).save(run.prediction_path("val", f"val_00{index}"))
    found = border_errors(facts)
    assert found is not None
    assert found.images == 3
    assert found.words.endswith("Most errors are inexact borders.")
    assert sum(band.share_of_errors for band in found.bands) == pytest.approx(1)
    assert sum(band.share_of_pixels for band in found.bands) == pytest.approx(1)
    assert found.highest == max(band.rate or 0 for band in found.bands)
    assert [band.title for band in found.bands] == ["1", "2", "3 to 4", "5 to 8", "9 to 16", "17 to 32", "over 32"]


def test_whole_regions_in_the_wrong_class(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    run = make_run(tmp_path, images=2, epochs=1)
    for index in range(2):
        path = run.prediction_path("val", f"val_00{index}")
        Image.fromarray(np.full((96, 128), 4, np.uint8)).save(path)
    found = border_errors(read_facts(run))
    assert found is not None
    assert found.words.endswith("Most errors are whole regions, or parts of them, in the wrong class.")


def test_without_errors_masks_or_evaluation_there_is_nothing(
    tmp_path: Path, make_run: Callable[..., RunFolder]
) -> None:
    run = make_run(tmp_path / "a", images=2, epochs=1)
    facts = read_facts(run)
    data = Path(facts.config.data.path or "")
    for index in range(2):
        labels = np.asarray(Image.open(data / f"masks/val/val_00{index}.png"))
        Image.fromarray(np.where(labels == 255, 0, labels).astype(np.uint8)).save(
            run.prediction_path("val", f"val_00{index}")
        )
    assert border_errors(facts) is None
    for path in (data / "masks/val").iterdir():
        path.unlink()
    assert border_errors(facts) is None
    assert border_errors(read_facts(make_run(tmp_path / "b", splits=(), epochs=0))) is None


def test_every_beginning_covers_the_range() -> None:
    assert sorted(_spread(13)) == list(range(13))
    assert _spread(8) == [0, 4, 2, 6, 1, 5, 3, 7]
    assert _spread(1) == [0]
    assert _spread(0) == []
