# SPDX-License-Identifier: Apache-2.0
"""What a stage reads: training samples in random order, whole validation images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from denseg.data.samples.augment import Augmentation, rare_classes
from denseg.data.samples.cache import open_cache
from denseg.data.samples.dataset import SegmentationDataset
from denseg.data.samples.loader import Loader, make_loader
from denseg.losses.border_weight import BorderWeights

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from denseg.config import TrainConfig
    from denseg.training.setup import TrainingData

__all__ = ["train_dataset", "train_loader", "validation_dataset", "validation_loader"]


def train_dataset(data: TrainingData, train: TrainConfig, crop: tuple[int, int], *, seed: int) -> SegmentationDataset:
    """Make a stage's training samples.

    Args:
        data: The data set.
        train: The stage's configuration.
        crop: ``(height, width)`` of the samples.
        seed: Of the run.

    Returns:
        The samples.
    """
    augmentation = Augmentation(
        scale=train.scale,
        scales=train.scales,
        flip=train.flip,
        flip_vertical=train.flip_vertical,
        further=train.augment,
    )
    border = train.border_weight
    maps = {}
    if border is not None:
        maps["weight"] = BorderWeights(**border.model_dump(), ignore_index=data.classes.ignore_index)
    return SegmentationDataset(
        data.train,
        encoding=data.encoding,
        normalization=data.normalization,
        ignore_index=data.classes.ignore_index,
        augmentation=augmentation,
        crop=crop,
        seed=seed,
        maps=maps,
        max_pixels=data.max_pixels,
        rare=rare_classes(data.train_counts),
        cache=open_cache(data.cache_gb),
    )


def train_loader(dataset: SegmentationDataset, data: TrainingData, train: TrainConfig, *, fabric: Fabric) -> Loader:
    """Make the loader of a stage's training samples.

    Args:
        dataset: What ``train_dataset`` gave.
        data: The data set.
        train: The stage's configuration.
        fabric: Rank, processes and device.

    Returns:
        The loader.
    """
    return make_loader(
        dataset,
        batch_size=train.batch_size,
        shuffle=True,
        repeats=data.repeats if train.sampling == "rare" else (),
        workers=train.workers,
        shard=(fabric.global_rank, fabric.world_size),
        pin_memory=fabric.device.type == "cuda",
    )


def validation_dataset(data: TrainingData) -> SegmentationDataset:
    """Make the whole validation images.

    Args:
        data: The data set.

    Returns:
        The images with their labels.
    """
    return SegmentationDataset(
        data.val,
        encoding=data.encoding,
        normalization=data.normalization,
        ignore_index=data.classes.ignore_index,
        max_pixels=data.max_pixels,
        cache=open_cache(data.cache_gb),
    )


def validation_loader(
    dataset: SegmentationDataset, data: TrainingData, train: TrainConfig, *, fabric: Fabric
) -> Loader:
    """Make the loader of whole validation images.

    Args:
        dataset: What ``validation_dataset`` gave.
        data: The data set.
        train: The stage's configuration.
        fabric: Rank, processes and device.

    Returns:
        The loader.
    """
    together = fabric.device.type == "cuda" and data.one_size
    return make_loader(
        dataset,
        batch_size=train.batch_size if together else 1,
        shuffle=False,
        workers=min(train.workers, len(data.val)),
        shard=(fabric.global_rank, fabric.world_size),
        pin_memory=fabric.device.type == "cuda",
    )
