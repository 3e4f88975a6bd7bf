# SPDX-License-Identifier: Apache-2.0
"""Recipes of the attention family: what their papers and released code fix."""

from __future__ import annotations

import pytest

from denseg.config import load_config


@pytest.mark.parametrize(
    ("name", "rate", "decay", "batch", "length", "crop"),
    [
        ("hdnet", 0.001, 1e-4, 16, 80, 480),
        ("danet", 0.001, 1e-4, 16, 80, 480),
        ("ccnet", 0.01, 5e-4, 8, 60_000, 769),
        ("emanet", 0.009, 1e-4, 16, 30_000, 513),
        ("nonlocal", 0.01, 5e-4, 8, 80_000, (512, 1024)),
        ("acnet", 0.01, 5e-4, 8, 80_000, (512, 1024)),
    ],
)
def test_the_published_schedule(
    name: str, rate: float, decay: float, batch: int, length: int, crop: int | tuple[int, int]
) -> None:
    config = load_config(name)
    train = config.train
    assert config.init == "imagenet"
    assert (config.model.name, config.model.output_stride) == (name, 8)
    assert (train.learning_rate, train.weight_decay, train.batch_size) == (rate, decay, batch)
    assert (train.epochs or train.iterations, train.crop) == (length, crop)
    assert (train.optimizer, train.momentum, train.schedule, train.power) == ("sgd", 0.9, "poly", 0.9)


def test_losses() -> None:
    assert load_config("hdnet").train.loss == {"cross_entropy": 1.0, "hfd": 0.1}
    assert load_config("hdnet").train.parts["head"].learning_rate == 10
    assert load_config("danet").train.aux_weight == 1.0  # three classifiers, their losses added
    assert load_config("ccnet").train.aux_weight == 0.4
