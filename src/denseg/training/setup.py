# SPDX-License-Identifier: Apache-2.0
"""From a configuration and data to what a stage trains with: device, network, loaders, steps."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from denseg.config import RunConfig, stage_configs
from denseg.data.encoding import MaskEncoding
from denseg.data.samples.augment import default_crop
from denseg.data.samples.loader import BatchOrder
from denseg.data.samples.normalization import Normalization
from denseg.errors import ConfigError
from denseg.inference.canvas import fit_size
from denseg.models import create_model
from denseg.training.fabric import choose_precision
from denseg.types import ClassTable

if TYPE_CHECKING:
    from denseg.config import TrainConfig
    from denseg.data.folders.folder import Pair
    from denseg.models import SegmentationModel

__all__ = [
    "StagePlan",
    "TrainingData",
    "create_stage_model",
    "crop_size",
    "plan_stage",
    "resolve_config",
    "stage_train",
    "step_seed",
]

# Where neither epochs nor iterations are said: about this many steps, within these bounds of epochs.
DEFAULT_STEPS = 4000
DEFAULT_EPOCHS = (20, 200)


@dataclass(frozen=True)
class TrainingData:
    """What training needs to know of a data set.

    Attributes:
        root: The data folder.
        train: Pairs to learn from.
        val: Pairs to judge by.
        classes: Names and colours.
        encoding: How stored mask values become labels.
        normalization: Applied to the images.
        train_counts: ``(K,)`` labelled pixels per class of the training split.
        max_pixels: Larger images are refused.
        one_size: Whether all validation images have one size, so that they can share a batch.
        cache_gb: GiB of decoded images that may be kept on disk; 0 for none.
        repeats: How often each training image asks to come, see ``repeat_factors``.
    """

    root: Path
    train: tuple[Pair, ...]
    val: tuple[Pair, ...]
    classes: ClassTable
    encoding: MaskEncoding
    normalization: Normalization
    train_counts: tuple[int, ...]
    max_pixels: int
    one_size: bool = False
    cache_gb: float = 0.0
    repeats: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Give what a resumed run must not work out again, as JSON values; the pairs stand in ``split.csv``."""
        return {
            "classes": self.classes.to_json(),
            "encoding": self.encoding.to_json(),
            "normalization": self.normalization.to_json(),
            "train_counts": list(self.train_counts),
            "one_size": self.one_size,
            "repeats": list(self.repeats),
        }

    @classmethod
    def from_json(
        cls, value: Mapping[str, Any], *, root: Path, train: tuple[Pair, ...], val: tuple[Pair, ...], max_pixels: int
    ) -> TrainingData:
        """Build it from what ``to_json`` gave and the pairs."""
        return cls(
            root=root,
            train=train,
            val=val,
            classes=ClassTable.from_json(value["classes"]),
            encoding=MaskEncoding.from_json(value["encoding"]),
            normalization=Normalization.from_json(value["normalization"]),
            train_counts=tuple(int(count) for count in value["train_counts"]),
            max_pixels=max_pixels,
            one_size=bool(value["one_size"]),
            repeats=tuple(float(factor) for factor in value.get("repeats", ())),
        )


@dataclass(frozen=True)
class StagePlan:
    """How long a stage is.

    Attributes:
        name: Shown in the log.
        train: The stage's configuration.
        freeze: Parts that do not learn.
        epoch_steps: Optimiser steps of one pass over the training split.
        steps: Optimiser steps of the stage.
        epochs: Passes, the last one perhaps cut short.
    """

    name: str
    train: TrainConfig
    freeze: tuple[str, ...]
    epoch_steps: int
    steps: int
    epochs: int


def create_stage_model(
    config: RunConfig, stage: int, *, num_classes: int, bands: int, pretrained: bool
) -> SegmentationModel:
    """Build the network of a stage with fresh weights drawn from the run's seed.

    Args:
        config: The run's.
        stage: Index of the stage.
        num_classes: K.
        bands: Image bands.
        pretrained: Start the backbone from ImageNet weights.

    Returns:
        The network, on the CPU.
    """
    model = config.model
    options = dict(model.options) | {"form": model.form}
    if model.width is not None:
        options["width"] = model.width
    stride = config.stages[stage].output_stride if config.stages else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return create_model(
            model.name,
            num_classes=num_classes,
            backbone=model.backbone,
            in_channels=bands,
            output_stride=stride or model.output_stride,
            pretrained=pretrained,
            **options,
        )


def stage_train(config: RunConfig, stage: int) -> TrainConfig:
    """Give the ``train`` section of a stage, laid over the common one.

    Args:
        config: The run's.
        stage: Index of the stage.

    Returns:
        The section.
    """
    return stage_configs(config)[stage][1]


def plan_stage(config: RunConfig, stage: int, batches: int) -> StagePlan:
    """Work out how long a stage is.

    Args:
        config: The run's.
        stage: Index of the stage.
        batches: Batches per epoch on each process.

    Returns:
        The plan.
    """
    name, train = stage_configs(config)[stage]
    epoch_steps = math.ceil(batches / train.accumulate)
    steps = train.iterations or epoch_steps * (train.epochs or 1)
    freeze = config.stages[stage].freeze if config.stages else ()
    return StagePlan(name, train, freeze, epoch_steps, steps, math.ceil(steps / epoch_steps))


def crop_size(train: TrainConfig, model: SegmentationModel) -> tuple[int, int]:
    """Give the size of training samples.

    Args:
        train: The stage's configuration, with a crop.
        model: The network; a valid form takes the next size that it accepts.

    Returns:
        ``(height, width)`` in pixels.

    Raises:
        ConfigError: The configuration names no crop; ``resolve_config`` chooses one.
    """
    if train.crop is None:
        raise ConfigError("train.crop is empty; give pixels, or [height, width]", key="train.crop")
    height, width = (train.crop, train.crop) if isinstance(train.crop, int) else train.crop
    return fit_size(height, model.geometry), fit_size(width, model.geometry)


def resolve_config(config: RunConfig, *, root: Path, images: int, sizes: Sequence[tuple[int, int]]) -> RunConfig:
    """Decide what the configuration leaves open, so that the run's ``config.yaml`` replays it.

    Args:
        config: What the user said, over recipe and defaults.
        root: The data folder.
        images: Training images.
        sizes: ``(height, width)`` of training images.

    Returns:
        The configuration with data folder, crop, length and initial weights decided.

    Raises:
        ConfigError: The stages differ in what they must share.
    """
    for key in ("precision", "metric"):
        if len({getattr(train, key) for _, train in stage_configs(config)}) > 1:
            raise ConfigError(
                f"all stages share one train.{key}; set it under train, not in a stage", key=f"train.{key}"
            )
    values = config.model_dump()
    values["data"]["path"] = str(root.resolve())
    train = values["train"]
    if train["crop"] is None:
        train["crop"] = default_crop(sizes)
    if train["epochs"] is None and train["iterations"] is None:
        world = int(os.environ.get("WORLD_SIZE", "1"))
        batches = len(BatchOrder(images, config.train.batch_size, True, world_size=world))
        low, high = DEFAULT_EPOCHS
        train["epochs"] = min(max(math.ceil(DEFAULT_STEPS / math.ceil(batches / config.train.accumulate)), low), high)
    if train["precision"] == "auto":
        train["precision"] = choose_precision(config.device)
    if config.init == "imagenet":
        values["model"]["pretrained"] = True
    elif config.init != "none":
        values["init"] = str(Path(config.init).resolve())
    return RunConfig.model_validate(values)


def step_seed(seed: int, stage: int, step: int, part: int) -> int:
    """Derive the seed of the random layers of one micro-batch.

    Args:
        seed: Of the run.
        stage: Index of the stage.
        step: Optimiser steps done in the stage.
        part: Number of the micro-batch in the step, over all processes.

    Returns:
        A number below 2**63; different arguments give different streams.
    """
    digest = hashlib.sha256(f"{seed} {stage} {step} {part}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
