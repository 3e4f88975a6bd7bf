# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from denseg.config import AugmentConfig
from denseg.data.samples.normalization import Normalization
from denseg.data.samples.photometry import Light, draw_light
from denseg.errors import DataError

LUMA = np.array([0.299, 0.587, 0.114])


def picture(bands: int = 3, dtype: str = "uint8", size: tuple[int, int] = (24, 30)) -> np.ndarray:
    rng = np.random.default_rng(bands)
    if dtype == "float32":
        return rng.normal(-2.0, 3.0, (*size, bands)).astype(np.float32)
    return rng.integers(0, np.iinfo(dtype).max + 1, (*size, bands)).astype(dtype)


def normal(image: np.ndarray) -> Normalization:
    return Normalization.imagenet() if image.dtype == np.uint8 and image.shape[2] == 3 else Normalization.fit([image])


def apply(light: Light, image: np.ndarray, seed: int = 0, **options: object) -> np.ndarray:
    return light.apply(image, normal(image), generator=np.random.default_rng(seed), **options)  # type: ignore[arg-type]


def reference(light: Light, image: np.ndarray) -> np.ndarray:
    """Every change by itself, in order, in float64; without hue, saturation and noise."""
    normalization = normal(image)
    low, high = normalization.limits()
    values = image.astype(np.float64)
    if light.blur:
        radius = max(1, round(3 * light.blur))
        values = ndimage.gaussian_filter(
            values, (light.blur, light.blur, 0), mode="nearest", radius=(radius, radius, 0)
        )
    unit = (values - low) / (high - low)
    unit = unit * light.gain + light.brightness
    unit = unit.mean() + light.contrast * (unit - unit.mean())
    unit = np.sign(unit) * np.abs(unit) ** light.gamma
    values = low + (high - low) * unit
    scaled = (values / normalization.scale - np.array(normalization.mean)) / np.array(normalization.std)
    return scaled.transpose(2, 0, 1)


@pytest.mark.parametrize(("bands", "dtype"), [(1, "uint8"), (3, "uint8"), (5, "uint16"), (4, "float32")])
@pytest.mark.parametrize(
    "light",
    [
        Light(gain=1.3),
        Light(brightness=-0.2),
        Light(contrast=0.6),
        Light(gamma=1.7),
        Light(blur=1.4),
        Light(blur=0.7, gain=0.8, brightness=0.1, contrast=1.3, gamma=0.75),
    ],
)
def test_changes_are_those_of_the_definition(light: Light, bands: int, dtype: str) -> None:
    image = picture(bands, dtype)
    result = apply(light, image)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    np.testing.assert_allclose(result, reference(light, image), atol=3e-4, rtol=3e-4)


def test_no_change_is_the_normalization_itself() -> None:
    image = picture()
    np.testing.assert_array_equal(apply(Light(), image), normal(image).apply(image))


def test_without_saturation_a_colour_is_its_grey() -> None:
    image = picture()
    planes = apply(Light(saturation=0.0), image)
    grey = (image @ LUMA)[None] / 255
    expected = (grey - np.array(normal(image).mean)[:, None, None]) / np.array(normal(image).std)[:, None, None]
    np.testing.assert_allclose(planes, expected, atol=1e-3)


def test_hue_turns_colours_and_keeps_their_grey() -> None:
    image = picture()
    plain = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def turned(hue: float) -> np.ndarray:
        return Light(hue=hue).apply(image, plain, generator=np.random.default_rng(0))

    np.testing.assert_allclose(turned(360.0), plain.apply(image), atol=1e-5)
    np.testing.assert_allclose(np.tensordot(LUMA, turned(75.0), 1), image @ LUMA / 255, atol=1e-5)
    # Two turns are one: the first applied to the picture that the second gave.
    halfway = turned(30.0).transpose(1, 2, 0)
    twice = Light(hue=45.0).apply(halfway, plain_float(), generator=np.random.default_rng(0))
    np.testing.assert_allclose(twice, turned(75.0), atol=1e-4)
    assert np.abs(turned(75.0) - plain.apply(image)).max() > 0.2


def plain_float() -> Normalization:
    return Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), scale=1.0)


@pytest.mark.parametrize("bands", [1, 4])
def test_colour_changes_leave_other_bands_alone(bands: int) -> None:
    image = picture(bands)
    changed = apply(Light(saturation=0.2, hue=90.0, gain=1.2), image)
    np.testing.assert_array_equal(changed, apply(Light(gain=1.2), image))


def test_noise_has_its_spread_in_every_band() -> None:
    image = picture(4, "uint16", (120, 130))
    normalization = normal(image)
    low, high = normalization.limits()
    noise = apply(Light(noise=0.05), image) - apply(Light(), image)
    per_band = noise.reshape(4, -1).std(axis=1) * normalization.scale * np.array(normalization.std) / (high - low)
    np.testing.assert_allclose(per_band, 0.05, rtol=0.03)
    np.testing.assert_allclose(noise.mean(), 0, atol=0.01)
    np.testing.assert_allclose(np.corrcoef(noise.reshape(4, -1)), np.eye(4), atol=0.03)
    np.testing.assert_array_equal(apply(Light(noise=0.05), image), apply(Light(noise=0.05), image))
    assert not np.array_equal(apply(Light(noise=0.05), image), apply(Light(noise=0.05), image, seed=1))


def test_what_lies_outside_is_the_mean_pixel_and_holes_are_zero() -> None:
    image = picture(2, "float32")
    image[3, 4, 0] = np.nan
    outside = np.zeros((24, 30), bool)
    outside[:5, :2] = True
    light = Light(gain=1.2, gamma=1.1, noise=0.1)
    normalization = Normalization((-2.0, -2.0), (3.0, 3.0), 1.0)
    result = light.apply(image, normalization, generator=np.random.default_rng(0), outside=outside)
    assert np.isfinite(result).all()
    assert (result[:, outside] == 0).all()
    assert (result[:, ~outside] != 0).all()


def test_a_flipped_view_is_taken_and_nothing_is_changed_in_place() -> None:
    image = picture()
    before = image.copy()
    np.testing.assert_array_equal(
        apply(Light(gain=1.1), image[:, ::-1]), apply(Light(gain=1.1), np.ascontiguousarray(image[:, ::-1]))
    )
    np.testing.assert_array_equal(image, before)


def test_small_samples_are_blurred_too() -> None:
    assert apply(Light(blur=5.0), picture(3, "uint8", (1, 4))).shape == (3, 1, 4)
    blurred = apply(Light(blur=5.0), picture(3, "uint8", (3, 4)))
    assert blurred.std() < apply(Light(), picture(3, "uint8", (3, 4))).std()


def test_other_bands_are_refused() -> None:
    message = r"^an image of 3 bands was expected, as those in training; got 2 bands$"
    with pytest.raises(DataError, match=message):
        Light(gain=1.1).apply(picture(2), Normalization.imagenet(), generator=np.random.default_rng(0))


def test_draws_stay_in_their_ranges_and_do_not_depend_on_each_other() -> None:
    ranges = AugmentConfig(
        gain=0.2, brightness=0.1, contrast=0.3, gamma=0.5, saturation=0.4, hue=20, noise=0.05, blur=2.0
    )
    lights = [draw_light(np.random.default_rng(seed), ranges) for seed in range(1000)]
    bounds = {
        "blur": (0, 2), "saturation": (0.6, 1.4), "hue": (-20, 20), "gain": (0.8, 1.2), "brightness": (-0.1, 0.1),
        "contrast": (0.7, 1.3), "gamma": (1 / 1.5, 1.5), "noise": (0, 0.05),
    }  # fmt: skip
    for name, (low, high) in bounds.items():
        drawn = np.array([getattr(light, name) for light in lights])
        assert low <= drawn.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < drawn.max() <= high
    assert np.median([light.gamma for light in lights]) == pytest.approx(1.0, abs=0.05)
    alone = draw_light(np.random.default_rng(3), AugmentConfig(blur=2.0))
    assert alone == replace(Light(), blur=lights[3].blur)
    assert draw_light(np.random.default_rng(0), AugmentConfig()) == Light()
