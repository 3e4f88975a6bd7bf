# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re

import numpy as np
import pytest

from denseg.data.samples.normalization import Normalization
from denseg.errors import DataError, UsageError


def test_apply_is_the_formula_per_band() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    before = image.copy()
    normalization = Normalization((0.1, 0.5, 0.9), (0.2, 0.3, 0.4), 255.0)
    result = normalization.apply(image)
    expected = (image / 255.0 - np.array([0.1, 0.5, 0.9])) / np.array([0.2, 0.3, 0.4])
    np.testing.assert_allclose(result, expected.transpose(2, 0, 1), atol=2e-6)
    assert result.dtype == np.float32
    assert result.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(image, before)


def test_a_view_gives_the_same_bits_as_its_copy() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    view = image[::-1, 1:6][:, ::-1]
    normalization = Normalization.imagenet()
    np.testing.assert_array_equal(normalization.apply(view), normalization.apply(view.copy()))
    np.testing.assert_array_equal(normalization.apply(view), normalization.apply(view.astype(np.float32)))


def test_a_grey_image_may_lack_the_band_axis() -> None:
    image = np.random.default_rng(0).integers(0, 65536, (4, 6), dtype=np.uint16)
    normalization = Normalization((0.5,), (0.25,), 65535.0)
    np.testing.assert_array_equal(normalization.apply(image), normalization.apply(image[:, :, None]))


def test_outside_and_what_is_not_finite_become_the_mean_pixel() -> None:
    image = np.full((2, 3, 2), 0.7, dtype=np.float32)
    image[0, 0] = np.nan, np.inf
    outside = np.array([[False, False, True], [False, False, False]])
    result = Normalization((0.2, 0.3), (1.0, 1.0), 1.0).apply(image, outside=outside)
    np.testing.assert_array_equal(result[:, 0, 0], 0.0)
    np.testing.assert_array_equal(result[:, 0, 2], 0.0)
    np.testing.assert_allclose(result[:, 1, 1], [0.5, 0.4], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_fitted_images_have_mean_0_and_std_1(dtype: type) -> None:
    rng = np.random.default_rng(1)
    top = 1.0 if dtype is np.float32 else np.iinfo(dtype).max
    shapes = ((20, 30, 4), (10, 50, 4))
    images = [(rng.beta(2, 5, shape) * [0.2, 0.5, 0.9, 1.0] * top).astype(dtype) for shape in shapes]
    normalization = Normalization.fit(images)
    pixels = np.concatenate([normalization.apply(image).reshape(4, -1) for image in images], axis=1)
    np.testing.assert_allclose(pixels.mean(axis=1), 0.0, atol=1e-4)
    np.testing.assert_allclose(pixels.std(axis=1), 1.0, atol=1e-4)
    assert normalization.scale == (1.0 if dtype is np.float32 else top)


def test_fit_leaves_out_what_is_not_finite_and_survives_a_constant_band() -> None:
    image = np.stack([np.linspace(0, 1, 100), np.full(100, 0.5)], axis=1).astype(np.float32).reshape(10, 10, 2)
    holed = image.copy()
    holed[3, 4] = np.nan
    full, sparse = Normalization.fit([image]), Normalization.fit([holed])
    assert sparse.mean[0] == pytest.approx(np.delete(image[..., 0], 34).mean(), abs=1e-7)
    assert full.std[1] == sparse.std[1] == 1.0
    np.testing.assert_allclose(full.apply(image)[1], 0.0, atol=1e-6)


def test_json_round_trip() -> None:
    normalization = Normalization.fit([np.random.default_rng(0).integers(0, 4096, (8, 8, 5), dtype=np.uint16)])
    value = json.loads(json.dumps(normalization.to_json()))
    assert value["bands"] == normalization.bands == 5
    assert Normalization.from_json(value) == normalization
    del value["bands"]
    assert Normalization.from_json(value) == normalization


def test_imagenet_is_what_torchvision_uses() -> None:
    from torchvision.transforms.functional import normalize, to_tensor

    image = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    expected = normalize(to_tensor(image), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    np.testing.assert_allclose(Normalization.imagenet().apply(image), expected.numpy(), atol=2e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), ()), "a normalization needs one mean and one std per band, got 0 and 0"),
        (((0.5, 0.5), (1.0,)), "a normalization needs one mean and one std per band, got 2 and 1"),
        (
            ((0.5,), (0.0,)),
            "a normalization needs finite means and positive std and scale, got mean [0.5], std [0.0], scale 255.0",
        ),
        (
            ((float("nan"),), (1.0,), 1.0),
            "a normalization needs finite means and positive std and scale, got mean [nan], std [1.0], scale 1.0",
        ),
    ],
)
def test_senseless_numbers_are_refused(arguments: tuple[tuple[float, ...], ...], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        Normalization(*arguments)


def test_other_bands_are_refused() -> None:
    with pytest.raises(DataError, match=r"^an image of 3 bands was expected, as those in training; got 1 bands$"):
        Normalization.imagenet().apply(np.zeros((4, 4), np.uint8))
    with pytest.raises(UsageError, match=r"^the normalization says 4 bands and holds 3 means$"):
        Normalization.from_json(Normalization.imagenet().to_json() | {"bands": 4})


def test_fit_refuses_what_cannot_be_measured_together() -> None:
    grey, color = np.zeros((2, 2, 1), np.uint8), np.zeros((2, 2, 3), np.uint8)
    with pytest.raises(DataError, match=r"^images must have equal bands, got 1 and 3$"):
        Normalization.fit([grey, color])
    with pytest.raises(DataError, match=r"^images must have one value range, got 0\.\.255 and uint16 pixels$"):
        Normalization.fit([grey, grey.astype(np.uint16)])
    with pytest.raises(DataError, match=r"^a normalization cannot be measured without an image$"):
        Normalization.fit([])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_percentiles_become_minus_one_and_one(dtype: type) -> None:
    rng = np.random.default_rng(0)
    images = [(rng.gamma(2.0, 20.0, (90, 80, 2)) * (1, 0.5)).astype(dtype) for _ in range(4)]
    images[0][0, 0] = 250  # an outlier moves nothing
    normalization = Normalization.fit_percentiles(images, 2, 98)
    stacked = np.stack(images).reshape(-1, 2).astype(np.float64)
    low, high = np.percentile(stacked, (2, 98), axis=0)
    expected = 2 * (images[1] - low) / (high - low) - 1
    np.testing.assert_allclose(normalization.apply(images[1]), expected.transpose(2, 0, 1), atol=0.02)
    assert Normalization.from_json(normalization.to_json()) == normalization


def test_percentiles_leave_out_holes_and_take_constant_bands() -> None:
    image = np.zeros((20, 20, 2), np.float32)
    image[..., 0] = np.linspace(0, 10, 400).reshape(20, 20)
    image[:5, :, 0] = np.nan
    normalization = Normalization.fit_percentiles([image], 0, 100)
    assert normalization.mean[0] == pytest.approx((image[5, 0, 0] + 10) / 2)
    assert normalization.mean[1:] + normalization.std[1:] == (0.0, 1.0)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "a normalization cannot be measured without an image"),
        ([np.zeros((2, 2, 1)), np.zeros((2, 2, 3))], "images must have equal bands, got 1 and 3"),
        ([np.zeros((2, 2, 1)), np.zeros((2, 2, 1), np.uint8)], "images must have one value range, got 0..1 and 0..255"),
    ],
)
def test_images_without_common_percentiles_are_refused(images: list[np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        Normalization.fit_percentiles(images, 1, 99)
