# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest

from denseg.config import TrainConfig
from denseg.training.balance import balance_loss, class_weights, repeat_factors

COUNTS = (690, 200, 90, 20)


def test_enet_weights_are_those_of_the_formula() -> None:
    share = [count / 1000 for count in COUNTS]
    wanted = [1 / math.log(1.02 + value) for value in share]
    mean = sum(w * p for w, p in zip(wanted, share, strict=True))
    assert class_weights("enet", COUNTS) == pytest.approx([w / mean for w in wanted], rel=1e-5)


def test_median_weights_balance_the_classes() -> None:
    weights = class_weights("median", COUNTS)
    assert [w * c for w, c in zip(weights, COUNTS, strict=True)] == pytest.approx([250] * 4, rel=1e-4)


def test_the_root_lies_between() -> None:
    median, root = (np.asarray(class_weights(kind, COUNTS)) for kind in ("median", "sqrt"))
    assert root[3] / root[0] == pytest.approx(math.sqrt(median[3] / median[0]), rel=1e-4)


@pytest.mark.parametrize("kind", ["enet", "median", "sqrt"])
def test_the_mean_over_pixels_is_one_and_bounds_hold(kind: str) -> None:
    counts = (10**9, 10**6, 3, 0)
    weights = class_weights(kind, counts)
    assert sum(w * c for w, c in zip(weights, counts, strict=True)) / sum(counts) == pytest.approx(1, rel=1e-5)
    assert weights[3] == weights[2], "a class that never occurs is as rare as the rarest"
    assert max(weights) / min(weights) <= 50.001


def test_nothing_labelled_weighs_nothing() -> None:
    assert class_weights("enet", (0, 0)) == (1.0, 1.0)


def test_losses_that_know_weights_get_them() -> None:
    config = TrainConfig(class_weight="median", loss={"cross_entropy": 0.5, "dice": 1.0, "focal": {"gamma": 1.0}})
    weights = list(class_weights("median", COUNTS))
    assert balance_loss(config, COUNTS) == {
        "cross_entropy": {"weight": 0.5, "class_weight": weights},
        "dice": {"weight": 1.0},
        "focal": {"gamma": 1.0, "class_weight": weights},
    }


def test_weights_of_the_recipe_stay() -> None:
    config = TrainConfig(class_weight="enet", loss={"cross_entropy": {"class_weight": [1, 2, 3, 4]}})
    assert balance_loss(config, COUNTS) == {"cross_entropy": {"class_weight": [1, 2, 3, 4]}}


def test_no_weights_no_change() -> None:
    assert balance_loss(TrainConfig(), COUNTS) == {"cross_entropy": 1.0}


def test_pictures_with_rare_classes_come_more_often() -> None:
    counts = np.zeros((100, 3), np.int64)
    counts[:, 0] = 50  # everywhere
    counts[:4, 1] = 5  # in 4 of 100 pictures
    assert repeat_factors(counts) == pytest.approx([math.sqrt(0.1 / 0.04)] * 4 + [1.0] * 96)
    counts[:] = 0
    counts[0, 2] = 1
    assert repeat_factors(np.tile(counts, (50, 1)) * 0 + np.eye(5000, 3, dtype=np.int64))[2] == 5.0, "five at most"
