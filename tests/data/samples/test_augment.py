# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from denseg.config import AugmentConfig, ElasticConfig
from denseg.data.samples.augment import Augmentation, branch, default_crop, draw_place, rare_classes, sample_generator
from denseg.data.samples.steps import Crop, Elastic, Flip, Mirror, Perspective, Scale, Shear, Turn
from denseg.data.samples.warp import Warp
from denseg.errors import UsageError


def draws(augmentation: Augmentation, count: int, size: tuple[int, int], crop: tuple[int, int] | None) -> list[Warp]:
    return [augmentation.draw(sample_generator(0, 0, index), size, crop) for index in range(count)]


def scale_of(warp: Warp, size: tuple[int, int]) -> tuple[int, int]:
    return next((step.target for step in warp.steps if isinstance(step, Scale)), size)


def test_no_augmentation_at_full_size_is_the_identity() -> None:
    warp = Augmentation(scale=(1, 1), flip=0).draw(sample_generator(0, 0, 0), (20, 30), None)
    assert warp == Warp((20, 30), (Crop(0, 0),))


@given(
    size=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    crop=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    index=st.integers(0, 1000),
)
def test_the_crop_lies_in_the_picture_or_the_picture_in_the_crop(
    size: tuple[int, int], crop: tuple[int, int], index: int
) -> None:
    warp = Augmentation().draw(sample_generator(0, 0, index), size, crop)
    target = scale_of(warp, size)
    crop_step = warp.steps[0]
    assert isinstance(crop_step, Crop)
    for start, extent, window in zip((crop_step.top, crop_step.left), target, crop, strict=True):
        assert min(0, extent - window) <= start <= max(0, extent - window)
    outside = warp.grid().outside(*size)
    inside = crop[0] * crop[1] - (0 if outside is None else int(outside.sum()))
    assert inside == min(crop[0], target[0]) * min(crop[1], target[1])


def test_draws_cover_what_they_should() -> None:
    warps = draws(Augmentation(scale=(0.5, 2.0), flip=0.5, flip_vertical=0.25), 2000, (100, 200), (64, 64))
    factors = np.array([scale_of(warp, (100, 200))[0] / 100 for warp in warps])
    assert factors.min() >= 0.5
    assert factors.max() <= 2.0
    np.testing.assert_allclose(np.quantile(factors, [0.25, 0.5, 0.75]), [0.875, 1.25, 1.625], atol=0.06)
    flips = [next((step for step in warp.steps if isinstance(step, Flip)), None) for warp in warps]
    assert np.mean([flip is not None and flip.horizontal for flip in flips]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([flip is not None and flip.vertical for flip in flips]) == pytest.approx(0.25, abs=0.04)
    unscaled = draws(Augmentation(scale=(1, 1), flip=0), 2000, (100, 200), (64, 64))
    tops = [warp.steps[0].top for warp in unscaled if isinstance(warp.steps[0], Crop)]
    assert (min(tops), max(tops)) == (0, 36)
    counts = np.bincount(tops, minlength=37)
    assert counts.min() > 20  # 54 expected


def test_listed_scales_are_all_drawn_and_no_others() -> None:
    warps = draws(Augmentation(scales=(0.5, 0.75, 1.0)), 300, (100, 40), (32, 32))
    assert {scale_of(warp, (100, 40)) for warp in warps} == {(50, 20), (75, 30), (100, 40)}


def test_an_option_leaves_the_other_draws_as_they_were() -> None:
    with_flip = draws(Augmentation(scale=(1, 1), flip=1.0), 20, (50, 50), (20, 20))
    without = draws(Augmentation(scale=(1, 1), flip=0.0), 20, (50, 50), (20, 20))
    assert [warp.steps[0] for warp in with_flip] == [warp.steps[0] for warp in without]


def test_the_generator_depends_on_seed_epoch_and_index() -> None:
    first = sample_generator(1, 2, 3).random(4)
    np.testing.assert_array_equal(first, sample_generator(1, 2, 3).random(4))
    for other in ((1, 3, 2), (2, 1, 3), (1, 2, 4), (0, 2, 3)):
        assert not np.array_equal(first, sample_generator(*other).random(4))


def test_the_default_crop_is_512_or_the_picture() -> None:
    assert default_crop([(360, 480)]) == (360, 480)
    assert default_crop([(1024, 2048), (300, 300)]) == (512, 512)
    assert default_crop([(100, 900), (200, 50)]) == (200, 512)
    with pytest.raises(UsageError, match=r"^a crop needs at least one picture size, got none$"):
        default_crop([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (0.0, 1.0)}, "scale must be (low, high) with 0 < low <= high, got (0.0, 1.0)"),
        ({"scale": (2.0, 1.0)}, "scale must be (low, high) with 0 < low <= high, got (2.0, 1.0)"),
        ({"scales": (1.0, -1.0)}, "scales must be positive, got (1.0, -1.0)"),
        ({"flip": 1.5}, "flip probabilities must be 0..1, got 1.5 and 0.0"),
    ],
)
def test_senseless_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        Augmentation(**options)  # type: ignore[arg-type]


def test_a_window_holds_the_place_it_is_drawn_around() -> None:
    augmentation = Augmentation(flip_vertical=0.5, further=AugmentConfig(quarter_turns=0.7))
    for index in range(300):
        rng = sample_generator(1, 0, index)
        size, crop = tuple(rng.integers(20, 90, 2).tolist()), tuple(rng.integers(8, 40, 2).tolist())
        place = float(rng.integers(0, size[0])) + 0.5, float(rng.integers(0, size[1])) + 0.5
        grid = augmentation.draw(sample_generator(0, 0, index), size, crop, around=place).grid()
        rows, columns = np.broadcast_arrays(*grid)
        assert rows.min() - 1 <= place[0] <= rows.max() + 1
        assert columns.min() - 1 <= place[1] <= columns.max() + 1


def test_geometry_beyond_scale_and_crop_leaves_those_as_they_were() -> None:
    plain = draws(Augmentation(), 30, (80, 70), (32, 32))
    further = AugmentConfig(rotation=20, shear=5, perspective=0.1, elastic=ElasticConfig(sigma=2), border="mirror")
    for before, after in zip(plain, draws(Augmentation(further=further), 30, (80, 70), (32, 32)), strict=True):
        assert [step for step in after.steps if isinstance(step, Crop | Flip | Scale)] == list(before.steps)
        assert [type(step) for step in after.steps[:4]] == [Elastic, Perspective, Turn, Shear]
        assert isinstance(after.steps[-1], Mirror)


def test_angles_and_displacements_are_those_asked_for() -> None:
    further = AugmentConfig(rotation=25, shear=8, quarter_turns=0.6, elastic=ElasticConfig(sigma=10, probability=0.5))
    steps = [step for warp in draws(Augmentation(further=further), 1500, (90, 80), (64, 64)) for step in warp.steps]
    turns = [step.degrees for step in steps if isinstance(step, Turn)]
    quarters = [turn for turn in turns if turn in (90, 180, 270)]
    assert len(quarters) / 1500 == pytest.approx(0.6, abs=0.04)
    assert min(quarters.count(turn) for turn in (90, 180, 270)) > 200
    angles = np.array([turn for turn in turns if turn not in (90, 180, 270)])
    assert np.abs(angles).max() <= 25
    assert angles.std() == pytest.approx(25 / 3**0.5, rel=0.05)
    slants = np.array([step.across + step.down for step in steps if isinstance(step, Shear)])
    assert slants.std() == pytest.approx(8 / 3**0.5, rel=0.05)
    fields = np.stack([step.displacements for step in steps if isinstance(step, Elastic)])
    assert len(fields) / 1500 == pytest.approx(0.5, abs=0.04)
    assert fields.shape[1:] == (2, 3, 3)
    assert fields.std() == pytest.approx(10, rel=0.03)
    assert fields.mean() == pytest.approx(0, abs=0.3)


def test_places_are_drawn_from_each_class_alike() -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[3, 4], labels[8:12, 8:12], labels[0, 0] = 1, 2, 255
    drawn = [draw_place(np.random.default_rng(seed), labels, range(4)) for seed in range(600)]
    values = [int(labels[int(place[0]), int(place[1])]) for place in drawn if place]
    assert {value: values.count(value) / 600 for value in set(values)} == pytest.approx(
        {0: 1 / 3, 1: 1 / 3, 2: 1 / 3}, abs=0.06
    )
    assert (3.5, 4.5) in drawn
    assert draw_place(np.random.default_rng(0), labels, (3, 7)) is None


def test_rare_classes_have_less_than_half_their_share() -> None:
    assert rare_classes([100, 100, 100, 100]) == ()
    assert rare_classes([1000, 124, 126, 0]) == (1, 2)
    assert rare_classes([900, 100]) == (1,)
    assert rare_classes([]) == ()


def test_a_branch_has_its_own_numbers_and_takes_none() -> None:
    generator = sample_generator(1, 2, 3)
    one, other = branch(generator, 1).random(3), branch(generator, 2).random(3)
    np.testing.assert_array_equal(one, branch(sample_generator(1, 2, 3), 1).random(3))
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(generator.random(3), sample_generator(1, 2, 3).random(3))
