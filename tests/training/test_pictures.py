# SPDX-License-Identifier: Apache-2.0
"""Pictures of a training: what they show is what was trained on and predicted."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from denseg.config import load_config
from denseg.data.samples.normalization import Normalization
from denseg.training.loaders import train_dataset
from denseg.training.pictures import Examples, display_sample, prediction_strip, sample_sheet
from denseg.training.setup import TrainingData
from denseg.types import ClassTable

Fit = Callable[..., Any]
CLASSES = ClassTable(("a", "b"), ((0, 0, 0), (255, 0, 0)), 255)


@pytest.mark.parametrize(
    ("image", "normalization"),
    [
        (np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8), Normalization.imagenet()),
        (np.random.default_rng(1).integers(0, 256, (5, 7, 1)).astype(np.uint8), Normalization((0.4,), (0.2,))),
    ],
)
def test_normalisation_is_undone(image: np.ndarray, normalization: Normalization) -> None:
    shown = display_sample(normalization.apply(image), normalization)
    assert shown.shape == (5, 7, 3)
    assert np.abs(shown.astype(int) - image.astype(int)).max() <= 1


def test_deep_pictures_use_the_range_of_their_data() -> None:
    normalization = Normalization((0.5,), (0.1,), 65535)
    low, high = normalization.limits()
    image = np.stack([low, high])[None].astype(np.uint16)  # (1, 2, 1)
    assert display_sample(normalization.apply(image), normalization)[0, :, 0].tolist() == [0, 255]


def test_the_sheet_shows_samples_with_their_masks_below(data: TrainingData) -> None:
    train = load_config(settings=["train.crop=32", "train.flip=0", "train.scale=[1, 1]"]).train
    dataset = train_dataset(data, train, (32, 32), seed=3)
    sheet = sample_sheet(dataset, ClassTable.numbered(3))
    assert sheet.shape == (64, 4 * 32 + 3 * 4, 3), "four samples in a row, each with its mask below"
    wanted = display_sample(dataset[(0, 1)]["images"].numpy(), data.normalization)
    assert np.array_equal(sheet[:32, 36:68], wanted)
    target = dataset[(0, 1)]["target"].numpy()
    below = sheet[32:64, 36:68]
    assert np.array_equal(below[target == 0], wanted[target == 0]), "black classes leave the picture as it is"
    assert not np.array_equal(below[target == 1], wanted[target == 1])


def test_unlabelled_pixels_are_grey() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    truth = np.full((4, 4), 255)
    strip = prediction_strip(image, truth, np.ones((4, 4), int), CLASSES)
    assert strip.shape == (4, 12, 3)
    picture, masked, predicted = np.split(strip, 3, axis=1)
    assert picture.max() == 0
    assert len(np.unique(masked)) == 1
    assert masked[0, 0, 0] > 0
    assert predicted[0, 0, 0] > 0
    assert predicted[..., 1:].max() == 0


@pytest.mark.parametrize(
    ("count", "step", "wanted"), [(9, 1, (0, 3, 6)), (2, 1, (0, 1)), (9, 2, (0, 2, 6)), (1, 4, (0,))]
)
def test_examples_are_spread_over_what_comes_by(count: int, step: int, wanted: tuple[int, ...]) -> None:
    examples = Examples(count, step=step)
    assert examples.wanted == wanted
    for index in range(0, count, step):
        examples(torch.tensor([index]), torch.full((1, 2, 2), index))
    assert {index: int(labels[0, 0]) for index, labels in examples.labels.items()} == {index: index for index in wanted}


def test_a_run_has_its_sheet_and_its_predictions(fit_run: Fit, data: TrainingData) -> None:
    from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator

    run = fit_run("train.validate_every=2", "train.epochs=3").run
    with Image.open(run.samples_path) as sheet:
        assert sheet.format == "WEBP"
        assert sheet.size == (4 * 32 + 3 * 4, 64)
    events = EventAccumulator(str(run.path), size_guidance={IMAGES: 0})
    events.Reload()
    tags = {f"val/{pair.stem}" for pair in data.val}
    assert set(events.Tags()["images"]) == tags
    for tag in tags:
        shown = events.Images(tag)
        assert [event.step for event in shown] == [4, 6], "after the validations, and only those"
        with Image.open(io.BytesIO(shown[0].encoded_image_string)) as picture:
            assert picture.size == (3 * 64, 48)
