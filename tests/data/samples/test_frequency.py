# SPDX-License-Identifier: Apache-2.0
"""A picture as a sum of frequency bands."""

from __future__ import annotations

import numpy as np
import pytest

from denseg.data.samples.frequency import CUTOFFS, remove_band, split_bands
from denseg.errors import ShapeError, UsageError


def wave(height: int, width: int, rows: float, columns: float) -> np.ndarray:
    """A pure wave of so many cycles per pixel down and across, with a mean of 100."""
    down = np.cos(2 * np.pi * rows * (np.arange(height) + 0.5))
    across = np.cos(2 * np.pi * columns * (np.arange(width) + 0.5))
    return 100 + 20 * (down[:, None] * across)[:, :, None]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (31, 48), (64, 64)])
@pytest.mark.parametrize("cutoffs", [CUTOFFS, (0.1,), (0.02, 0.03, 0.2)])
def test_bands_sum_to_the_picture(size, cutoffs):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    before = image.copy()
    bands = split_bands(image, cutoffs)
    assert bands.shape == (len(cutoffs) + 1, *size, 3)
    np.testing.assert_allclose(bands.sum(axis=0), image, atol=1e-6)
    np.testing.assert_allclose(bands[0].mean(axis=(0, 1)), image.mean(axis=(0, 1)), atol=1e-6)
    np.testing.assert_allclose(bands[1:].mean(axis=(1, 2)), 0, atol=1e-6)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("rows", "columns", "band"),
    [(1 / 64, 0, 0), (0, 1 / 64, 0), (1 / 16, 0, 1), (3 / 64, 3 / 64, 1), (0, 1 / 4, 2), (1 / 8, 3 / 16, 2)],
)
def test_a_wave_lies_in_its_band(rows, columns, band):
    image = wave(64, 128, rows, columns)
    bands = split_bands(image)
    expected = np.zeros_like(bands)
    expected[0] = 100
    expected[band] += image - 100
    np.testing.assert_allclose(bands, expected, atol=1e-9)
    for index in range(3):
        left = remove_band(bands, index)
        np.testing.assert_allclose(left, np.full_like(image, 100) if index == band else image, atol=1e-9)


def test_a_wave_at_the_cut_off_is_shared():
    low, middle, high = split_bands(wave(64, 64, 1 / 32, 0))
    np.testing.assert_allclose(low - 100, middle, atol=1e-9)
    np.testing.assert_allclose(high, 0, atol=1e-9)


def test_bands_equal_those_of_the_mirrored_picture_by_fourier():
    image = np.random.default_rng(1).normal(size=(12, 20, 1))
    mirrored = np.block([[image[:, :, 0], image[:, ::-1, 0]], [image[::-1, :, 0], image[::-1, ::-1, 0]]])
    radius = np.hypot(np.fft.fftfreq(24)[:, None], np.fft.fftfreq(40))
    octaves = np.log2(np.maximum(radius, 1e-12) / 0.1)
    gain = np.where(octaves < -0.5, 1, np.where(octaves > 0.5, 0, 0.5 * (1 - np.sin(np.pi * octaves))))
    expected = np.fft.ifft2(np.fft.fft2(mirrored) * gain).real[:12, :20]
    np.testing.assert_allclose(split_bands(image, (0.1,))[0, :, :, 0], expected, atol=1e-12)


def test_faults_are_named():
    with pytest.raises(ShapeError, match=r"^image must be \(H, W, C\) with at least one pixel, got \(4, 4\)$"):
        split_bands(np.zeros((4, 4)))
    for cutoffs in ((), (0.2, 0.1), (0.0,), (0.5,)):
        with pytest.raises(UsageError, match=r"^cut-offs must increase and lie between 0 and 0\.5 cycles per pixel"):
            split_bands(np.zeros((4, 4, 1)), cutoffs)
