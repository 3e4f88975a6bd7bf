# SPDX-License-Identifier: Apache-2.0
"""From what the mask doctor saw to what training reads; and the same again, from the run folder, on resume."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denseg.data.folders.folder import discover
from denseg.data.folders.folds import assign_fold
from denseg.data.folders.split import assign_split, split_rows
from denseg.data.reading.parts import pair_size
from denseg.data.samples.normalization import Normalization
from denseg.data.samples.pairs import read_pair_image
from denseg.errors import DataError
from denseg.runs.tables import SplitRow
from denseg.training.balance import repeat_factors
from denseg.training.setup import TrainingData

if TYPE_CHECKING:
    from collections.abc import Mapping

    from denseg.config import DataConfig
    from denseg.data.doctor.doctor import Examination
    from denseg.data.folders.folder import Pair
    from denseg.runs.folder import RunFolder

__all__ = ["Prepared", "prepare", "restore"]

# Pictures looked at to decide the crop, and read to measure the normalisation.
SIZES_SAMPLE = 1000
NORMALIZATION_SAMPLE = 200


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A data set that is ready to train on.

    Attributes:
        data: What training reads.
        pairs: All pairs, each with its split.
        made_split: Whether the split was made here, because the folder has no ``val``.
        sizes: ``(height, width)`` of training images, a sample of them.
    """

    data: TrainingData
    pairs: tuple[Pair, ...]
    made_split: bool
    sizes: tuple[tuple[int, int], ...]

    def rows(self) -> list[SplitRow]:
        """Read and digest every file for ``split.csv``."""
        return [SplitRow(*row) for row in split_rows(self.pairs, self.data.root)]


def prepare(examination: Examination, config: DataConfig, *, seed: int) -> Prepared:
    """Split the pairs and decide how pixels become numbers.

    Args:
        examination: What the mask doctor saw, without an error.
        config: The ``data`` section.
        seed: Of the run; decides the split where neither the folder nor ``data.split_seed`` does.

    Returns:
        The data set.
    """
    drawn = seed if config.split_seed is None else config.split_seed
    present = zip(examination.pairs, examination.counts > 0, strict=True)
    kinds = {pair.stem: row.nonzero()[0].tolist() for pair, row in present}
    if config.fold is not None:
        pairs, made = assign_fold(examination.pairs, *config.fold, seed=drawn), False
    else:
        pairs, made = assign_split(examination.pairs, val_share=config.val_share, seed=drawn, classes=kinds)
    train, val = _of(pairs, "train"), _of(pairs, "val")
    split = {pair.stem: pair.split for pair in pairs}
    rows = [index for index, pair in enumerate(examination.pairs) if split[pair.stem] == "train"]
    sizes = _sizes(_sample(train, SIZES_SAMPLE), config.max_pixels)
    data = TrainingData(
        root=examination.inventory.root,
        train=train,
        val=val,
        classes=examination.classes,
        encoding=examination.encoding,
        # One for all folds: their networks predict together.
        normalization=_normalization(examination, train if config.fold is None else examination.pairs, config),
        train_counts=tuple(examination.counts[rows].sum(axis=0).tolist()),
        repeats=repeat_factors(examination.counts[rows]),
        max_pixels=config.max_pixels,
        one_size=len(val) <= SIZES_SAMPLE and len(set(_sizes(val, config.max_pixels))) == 1,
        cache_gb=config.cache_gb,
    )
    return Prepared(data, pairs, made, sizes)


def restore(run: RunFolder, config: DataConfig, stored: Mapping[str, Any]) -> TrainingData:
    """Find the files of a run again; nothing is decided anew.

    Args:
        run: The run.
        config: The ``data`` section of the run's configuration.
        stored: What ``TrainingData.to_json`` gave.

    Returns:
        The data set.

    Raises:
        DataError: A file of the run's ``split.csv`` is gone, or has changed since the run began.
    """
    root = Path(config.path or ".")
    known = {pair.stem: pair for pair in discover(root).pairs}
    began = (run.path / "split.csv").stat().st_mtime
    pairs, touched = [], []
    for row in run.split():
        pair = known.get(row.stem)
        if pair is None:
            raise DataError(
                f"the run {run.path} trains on {row.image}, which is gone from {root}; put it back, or start a new run",
                path=root / row.image,
            )
        pairs.append(dataclasses.replace(pair, split=row.split))
        if max(path.stat().st_mtime for path in pair.files) > began:
            touched.append((pairs[-1], row))
    for (pair, old), new in zip(touched, split_rows([pair for pair, _ in touched], root), strict=True):
        if old.sha256 != new.sha256:
            raise DataError(
                f"{pair.image} or its mask changed since the run {run.path} began; "
                "put the old files back, or start a new run from another --out",
                path=pair.image,
            )
    data = TrainingData.from_json(
        stored, root=root, train=_of(pairs, "train"), val=_of(pairs, "val"), max_pixels=config.max_pixels
    )
    return dataclasses.replace(data, cache_gb=config.cache_gb)


def _of(pairs: Sequence[Pair], split: str) -> tuple[Pair, ...]:
    return tuple(pair for pair in pairs if pair.split == split)


def _sample(pairs: Sequence[Pair], count: int) -> Sequence[Pair]:
    """Take pairs evenly over the list, so that a sorted folder is seen in all its parts."""
    return pairs if len(pairs) <= count else [pairs[index * len(pairs) // count] for index in range(count)]


def _sizes(pairs: Sequence[Pair], max_pixels: int) -> tuple[tuple[int, int], ...]:
    return tuple(pair_size(pair, max_pixels=max_pixels) for pair in pairs)


def _normalization(examination: Examination, train: Sequence[Pair], config: DataConfig) -> Normalization:
    """Give what is measured, and how many slices around a stack's slice the network sees with it."""
    around = examination.inventory.description.neighbours if any(pair.pages for pair in train) else 0
    return dataclasses.replace(_measured(examination, train, config), neighbours=around)


def _measured(examination: Examination, train: Sequence[Pair], config: DataConfig) -> Normalization:
    """ImageNet's numbers for ordinary colour pictures, which pretrained backbones expect; else measured."""
    if examination.bands == 3 and examination.dtype == "uint8" and config.normalize == "auto":
        return Normalization.imagenet()
    images = (
        read_pair_image(pair, bands=examination.bands, max_pixels=config.max_pixels)
        for pair in _sample(train, NORMALIZATION_SAMPLE)
    )
    if config.normalize == "percentiles":
        return Normalization.fit_percentiles(images, *config.percentiles)
    return Normalization.fit(images)
