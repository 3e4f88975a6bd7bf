# SPDX-License-Identifier: Apache-2.0
"""Pixels for the page, read back from what the page would hold."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from denseg.report.pixels import distinct, errors_png, labels_png, photo_webp, shrink_labels, shrink_photo, to_display


def opened(address: str) -> Image.Image:
    kind, _, content = address.partition(";base64,")
    assert kind in {"data:image/png", "data:image/webp"}
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_8_bit_colour_is_shown_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(to_display(image), image)


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 9])
def test_any_number_of_bands_becomes_three(bands: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, bands), np.uint8)
    shown = to_display(image)
    assert shown.shape == (5, 7, 3)
    np.testing.assert_array_equal(shown[..., 0], image[..., 0])
    if bands < 3:
        np.testing.assert_array_equal(shown[..., 2], image[..., 0])


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_more_than_8_bits_are_stretched(dtype: type) -> None:
    ramp = np.linspace(1000, 3000, 400).reshape(20, 20, 1).astype(dtype)
    shown = to_display(ramp)
    assert (shown.min(), shown.max()) == (0, 255)
    assert shown[10, 10, 0] == pytest.approx(255 * (float(ramp[10, 10, 0]) - 1020) / 1960, abs=1)


def test_missing_values_and_constants_are_shown() -> None:
    image = np.ones((4, 4, 1), np.float32)
    image[0] = np.nan
    image[1] = np.inf
    assert to_display(image).shape == (4, 4, 3)
    assert to_display(np.full((2, 2, 1), np.nan, np.float32)).max() == 0


def test_labels_come_back_exactly() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (9, 11)).astype(np.uint8)
    labels[0, 0] = 255
    colors = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (7, 8, 9))
    pixels = np.asarray(opened(labels_png(labels, colors)).convert("RGBA"))
    np.testing.assert_array_equal(pixels[labels == 3], np.tile([7, 8, 9, 255], ((labels == 3).sum(), 1)))
    assert pixels[0, 0, 3] == 0
    assert set(pixels[labels == 0][:, 3]) == {40}, "black stays faint"


def test_more_classes_than_a_palette_has() -> None:
    labels = np.arange(300, dtype=np.uint16).reshape(15, 20)
    colors = tuple((index % 256, index // 256, 9) for index in range(299))
    pixels = np.asarray(opened(labels_png(labels, colors)))
    assert pixels.shape == (15, 20, 4)
    assert tuple(pixels[0, 5]) == (5, 0, 9, 255)
    assert pixels[-1, -1, 3] == 0


def test_errors_are_opaque_and_the_rest_clear() -> None:
    wrong = np.eye(6, dtype=bool)
    np.testing.assert_array_equal(np.asarray(opened(errors_png(wrong)).convert("RGBA"))[..., 3] > 0, wrong)


def test_shrinking_keeps_labels_and_picture_together() -> None:
    labels = np.kron(np.arange(12).reshape(3, 4), np.ones((100, 100), int))
    small = shrink_labels(labels, 40)
    assert small.shape == shrink_photo(np.zeros((300, 400, 3), np.uint8), 40).shape[:2] == (30, 40)
    np.testing.assert_array_equal(small, np.kron(np.arange(12).reshape(3, 4), np.ones((10, 10), int)))
    assert shrink_labels(labels, 4000).shape == labels.shape
    assert shrink_labels(np.zeros((1, 5000), int), 100).shape == (1, 100)


def test_photo() -> None:
    image = np.full((20, 30, 3), (200, 100, 50), np.uint8)
    again = np.asarray(opened(photo_webp(image)).convert("RGB")).astype(int)
    assert np.abs(again - image).max() < 12


def test_colours_of_classes() -> None:
    own = ((10, 200, 30), (200, 0, 0))
    assert distinct(own) == own
    twice = distinct(((5, 6, 7), (5, 6, 7), (5, 60, 7), (5, 6, 7)))
    assert twice[0] == (5, 6, 7)
    assert len(set(twice)) == 4
    assert distinct(((0, 0, 0), (255, 255, 255))) == ((0, 114, 178), (230, 159, 0)), "greys vanish over a grey picture"
    assert distinct(((0, 0, 0), (128, 0, 0)))[1] == (230, 159, 0), "the numbered table's colours are nobody's choice"
    assert len(set(distinct([(0, 0, 0)] * 400))) == 400
