# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from denseg.data.folders.folder import Pair
from denseg.errors import TrainingError
from denseg.inference.strategy import TileOptions
from denseg.losses import CompositeLoss
from denseg.metrics import bootstrap_classes, majority_baseline, scores_from_counts
from denseg.models import create_model
from denseg.training import validation
from denseg.training.evaluation import Evaluation, metric_value, scores_warnings
from denseg.training.validation import Scorer, crop_target, validate
from denseg.types import ClassTable, Geometry, SegmentationOutput

CLASSES = ClassTable(("road", "sky", "tree"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)), 255)


def pair(stem: str, group: str = "") -> Pair:
    return Pair(stem, Path(f"/data/images/{stem}.png"), Path(f"/data/masks/{stem}.png"), "val", group=group)


def labels(rng: np.random.Generator, *, ignored: float = 0.1) -> Any:
    values = rng.integers(0, 3, (20, 30))
    values[rng.random((20, 30)) < ignored] = 255
    return values


def filled(images: int = 6) -> tuple[Evaluation, list[Any], list[Any]]:
    rng = np.random.default_rng(0)
    evaluation, truths, guesses = Evaluation(CLASSES), [], []
    for index in range(images):
        truth = labels(rng)
        guess = np.where(
            rng.random(truth.shape) < 0.7, np.where(truth == 255, 0, truth), rng.integers(0, 3, truth.shape)
        )
        evaluation.add(pair(f"i{index}"), guess.astype(np.uint8), truth.astype(np.uint8))
        truths.append(truth)
        guesses.append(guess)
    return evaluation, truths, guesses


def naive(truths: list[Any], guesses: list[Any]) -> Any:
    counts = np.zeros((3, 3), int)
    for truth, guess in zip(truths, guesses, strict=True):
        for a, b in zip(truth.ravel(), guess.ravel(), strict=True):
            if a != 255:
                counts[a, b] += 1
    return counts


def test_the_document_tells_the_naive_counts() -> None:
    evaluation, truths, guesses = filled()
    counts = naive(truths, guesses)
    document = evaluation.to_json("val", train_counts=[1, 5, 2], root=Path("/data"), model="unet")
    assert document["confusion"] == counts.tolist()
    scores = scores_from_counts(counts)
    assert document["miou"] == scores.miou
    assert document["baseline_miou"] == majority_baseline(np.array([1, 5, 2]), counts).miou
    assert document["interval"][0] < scores.miou < document["interval"][1]
    assert document["images"] == 6
    assert document["ignored_pixels"] == sum(int((truth == 255).sum()) for truth in truths)
    assert document["classes"][1] == {
        "name": "sky",
        "color": [4, 5, 6],
        "iou": scores.iou[1],
        "interval": bootstrap_classes(np.stack(evaluation.counts))[1].tolist(),
        "accuracy": scores.accuracy[1],
        "pixels": int(counts[1].sum()),
    }
    assert document["per_image"][2]["image"] == "images/i2.png"
    assert document["per_image"][2]["miou"] == scores_from_counts(naive(truths[2:3], guesses[2:3])).miou
    assert document["model"] == "unet"
    assert document["warnings"] == []
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_the_same_seed_gives_the_same_interval() -> None:
    evaluation, _, _ = filled()
    assert evaluation.to_json("val", seed=3)["interval"] == evaluation.to_json("val", seed=3)["interval"]
    assert evaluation.to_json("val", seed=3)["interval"] != evaluation.to_json("val", seed=4)["interval"]


def test_images_of_a_group_are_drawn_together() -> None:
    single, _, _ = filled()
    grouped, _, _ = filled()
    grouped.pairs = [pair(f"i{index}", group="a" if index < 5 else "b") for index in range(6)]
    assert single.to_json("val")["interval"] != grouped.to_json("val")["interval"]


def test_an_image_without_labels_has_no_score_and_nothing_breaks() -> None:
    evaluation = Evaluation(CLASSES)
    evaluation.add(pair("empty"), np.zeros((2, 3), np.uint8), np.full((2, 3), 255, np.uint8))
    document = evaluation.to_json("val")
    assert document["miou"] is None
    assert document["interval"] == [None, None]
    assert document["per_image"][0]["miou"] is None
    assert document["warnings"] == ["no pixel of this split carries a label: there is nothing to score"]


def test_a_split_without_images_is_an_error() -> None:
    with pytest.raises(TrainingError) as caught:
        Evaluation(CLASSES).to_json("val")
    assert str(caught.value) == "the split 'val' has no image to evaluate"


def test_warnings_about_scores() -> None:
    one_class = np.array([[5, 0, 0], [7, 0, 0], [0, 0, 0]])
    baseline = majority_baseline(np.array([1, 0, 0]), one_class)
    assert scores_warnings(one_class, baseline, CLASSES) == [
        "every pixel was predicted as 'road'",
        "1 of 3 classes have no labelled pixel in this split: tree",
    ]
    poor = np.array([[1, 9, 0], [0, 1, 0], [1, 0, 0]])
    assert scores_warnings(poor, majority_baseline(np.array([1, 0, 0]), poor), CLASSES) == [
        "mIoU 0.064 is not above the majority baseline 0.278"  # (1 / 11 + 1 / 10 + 0) / 3
    ]
    good = np.diag([5, 5, 5])
    assert scores_warnings(good, majority_baseline(np.array([1, 0, 0]), good), CLASSES) == []


def test_metric_values() -> None:
    scores = scores_from_counts(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
    assert metric_value("miou", scores, CLASSES, 0.5) == scores.miou
    assert metric_value("iou/sky", scores, CLASSES, 0.5) == scores.iou[1]
    assert metric_value("iou/tree", scores, CLASSES, 0.5) is None
    assert metric_value("loss", scores, CLASSES, 0.5) == -0.5
    assert metric_value("loss", scores, CLASSES, None) is None


class Colors(nn.Module):
    """Scores of a pixel are its three bands; ``margin`` pixels are cut off at each side."""

    def __init__(self, margin: int = 0) -> None:
        super().__init__()
        self.geometry = Geometry(margin=margin)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> SegmentationOutput:
        m = self.geometry.margin
        logits = images[..., m : images.shape[-2] - m, m : images.shape[-1] - m] * self.scale
        return SegmentationOutput(logits, (), logits, logits)


def batches(sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for index, (height, width) in enumerate(sizes):
        target = torch.randint(0, 3, (1, height, width), generator=generator)
        images = nn.functional.one_hot(target, 3).permute(0, 3, 1, 2).float() * 4
        images += torch.randn(images.shape, generator=generator) * 2
        target[0, 0, 0] = 255
        made.append({"images": images, "target": target, "index": torch.tensor([index])})
    return made


@pytest.mark.parametrize("margin", [0, 2])
def test_validation_counts_every_image_whole(margin: int) -> None:
    model = Colors(margin)
    loss = CompositeLoss({"cross_entropy": 2.0}, num_classes=3, ignore_index=255)
    seen: list[int] = []
    made = batches([(5, 7), (9, 4), (1, 1)])
    result = validate(Scorer(cast(Any, model)), made, loss=loss, device=torch.device("cpu"), on_batch=seen.append)
    truths = torch.cat([batch["target"].flatten() for batch in made])
    logits = torch.cat([batch["images"].flatten(2)[0].T for batch in made])
    keep = truths != 255
    counts = torch.zeros((3, 3), dtype=torch.int64)
    for a, b in zip(truths[keep], logits[keep].argmax(1), strict=True):
        counts[a, b] += 1
    assert torch.equal(result.counts, counts)
    wanted = 2 * nn.functional.cross_entropy(logits[keep], truths[keep])
    assert result.loss(list(loss.weights.values())) == pytest.approx(float(wanted), rel=1e-5)
    assert seen == [1, 1, 1]
    assert not model.training


def test_a_split_without_labels_has_no_loss() -> None:
    made = batches([(4, 4)])
    made[0]["target"].fill_(255)
    loss = CompositeLoss({"cross_entropy": 1.0}, num_classes=3, ignore_index=255)
    result = validate(Scorer(cast(Any, Colors())), made, loss=loss, device=torch.device("cpu"))
    assert result.loss([1.0]) is None
    assert int(result.counts.sum()) == 0


def test_targets_are_cut_to_what_a_model_with_a_margin_scores() -> None:
    target = torch.arange(36).reshape(1, 6, 6)
    assert torch.equal(crop_target(target, torch.zeros(1, 3, 2, 4)), target[:, 2:4, 1:5])
    assert crop_target(target, torch.zeros(1, 3, 6, 6)) is target


@pytest.mark.parametrize("output_stride", [8])
def test_large_images_are_labelled_in_tiles_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch, output_stride: int
) -> None:
    model = create_model("fcn", num_classes=3, backbone="test_resnet", output_stride=output_stride).eval()
    made = batches([(210, 330)])
    loss = CompositeLoss({"cross_entropy": 1.0}, num_classes=3, ignore_index=255)
    whole = validate(Scorer(model), made, loss=loss, device=torch.device("cpu"))
    monkeypatch.setattr(validation, "WHOLE_PIXELS", 100)
    scorer = Scorer(model)
    monkeypatch.setattr(scorer._tiles(), "options", TileOptions(memory=3_000_000))
    assert scorer._strategy(210, 330).mode == "halo"
    tiled = validate(scorer, made, loss=loss, device=torch.device("cpu"))
    assert torch.equal(whole.counts, tiled.counts)
    assert whole.loss([1.0]) is not None
    assert tiled.loss([1.0]) is None
