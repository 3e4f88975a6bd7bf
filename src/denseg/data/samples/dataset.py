# SPDX-License-Identifier: Apache-2.0
"""Pairs of files as tensors: read, decoded, warped, normalized.

Shape letters: C bands, h and w height and width of the sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from denseg.data.reading.stored import DEFAULT_MAX_PIXELS
from denseg.data.samples.augment import Augmentation, branch, draw_place, sample_generator
from denseg.data.samples.pairs import read_pair
from denseg.data.samples.warp import sample_image, sample_labels
from denseg.errors import DataError, UsageError

if TYPE_CHECKING:
    from denseg.data.encoding import MaskEncoding
    from denseg.data.folders.folder import Pair
    from denseg.data.samples.cache import DecodedCache
    from denseg.data.samples.normalization import Normalization

__all__ = ["Key", "MapMaker", "Sample", "SegmentationDataset", "collate"]

Key: TypeAlias = tuple[int, int]
"""``(epoch, index)``: which sample, and in which epoch its randomness is drawn."""

Sample: TypeAlias = dict[str, Any]
"""``images`` (C, h, w) float32, ``target`` (h, w) int64, ``index`` int, and one (h, w) float32 per extra map."""


PLACE, PASTE = 2, 3  # purposes of numbers beside the warp's
DONORS = 3  # pictures that are looked at for something rare to put in


class MapMaker(Protocol):
    """Makes a per-pixel map of one picture, for example the border weights of U-Net."""

    def __call__(self, labels: NDArray[Any]) -> NDArray[np.float32]:
        """Turn ``(H, W)`` labels into an ``(H, W)`` map."""
        ...


class _View(NamedTuple):
    """A part of a picture, warped and not yet normalized.

    Attributes:
        image: ``(h, w, C)``.
        labels: ``(h, w)``.
        maps: ``(h, w)`` float32 by name.
        outside: ``(h, w)`` pixels without a picture; ``None`` where there is none.
    """

    image: NDArray[Any]
    labels: NDArray[Any]
    maps: Mapping[str, NDArray[np.float32]]
    outside: NDArray[np.bool_] | None


class SegmentationDataset(Dataset[Sample]):
    """Images with masks of one split.

    Attributes:
        pairs: What is read.
        encoding: How raw mask values become labels.
        normalization: Applied to the images.
        ignore_index: Label that means "no class"; given to what lies outside the picture.
        augmentation: Random changes; ``None`` for whole pictures at their own size.
        crop: ``(height, width)`` of augmented samples; ``None`` for the resized picture as a whole.
        seed: Of the run.
        maps: Makers of extra per-pixel maps by name; warped with the mask's grid, 0 outside.
        max_pixels: Larger files are refused before they are decoded.
        rare: Classes that are put into other samples.
        cache: Keeps decoded pairs for later epochs; ``None`` decodes every time.
    """

    def __init__(  # noqa: PLR0913 - what a sample is made of; grouping these would only hide them
        self,
        pairs: Sequence[Pair],
        *,
        encoding: MaskEncoding,
        normalization: Normalization,
        ignore_index: int,
        augmentation: Augmentation | None = None,
        crop: tuple[int, int] | None = None,
        seed: int = 0,
        maps: Mapping[str, MapMaker] | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        rare: Sequence[int] = (),
        cache: DecodedCache | None = None,
    ) -> None:
        """Keep what is needed to read; nothing is read yet.

        Args:
            pairs: The images and masks.
            encoding: How raw mask values become labels.
            normalization: Applied to the images.
            ignore_index: Label that means "no class".
            augmentation: Random changes; ``None`` for whole pictures.
            crop: ``(height, width)`` of augmented samples.
            seed: Of the run.
            maps: Makers of extra per-pixel maps by name.
            max_pixels: Larger files are refused before they are decoded.
            rare: Classes that are put into other samples, where the augmentation does so.
            cache: Keeps decoded pairs for later epochs.

        Raises:
            UsageError: A crop without augmentation, another ignore index than the encoding's, or a map of a name that a
                sample has already.
        """
        if crop is not None and augmentation is None:
            raise UsageError("a crop needs an augmentation to place it; give Augmentation(scale=(1, 1), flip=0)")
        if ignore_index != encoding.ignore_index:
            raise UsageError(f"the masks' encoding gives {encoding.ignore_index} to ignored pixels, got {ignore_index}")
        taken = {"images", "target", "index"} & (maps or {}).keys()
        if taken:
            raise UsageError(f"a map must not be named {sorted(taken)[0]!r}; samples hold that already")
        self.pairs = tuple(pairs)
        self.encoding = encoding
        self.normalization = normalization
        self.ignore_index = ignore_index
        self.augmentation = augmentation
        self.crop = crop
        self.seed = seed
        self.maps = dict(maps or {})
        self.max_pixels = max_pixels
        self.rare = tuple(rare)
        self.cache = cache

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | Key) -> Sample:
        """Read one sample.

        Args:
            key: ``(epoch, index)``; an index alone means epoch 0.

        Returns:
            ``{"images": (C, h, w) float32, "target": (h, w) int64, "index": int}`` and the extra maps.

        Raises:
            DataError: A file cannot be read, image and mask differ in size, or a mask holds a value without a class.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        image, labels = self.read(index)
        if self.augmentation is None:
            maps = {name: make(labels) for name, make in self.maps.items()}
            return self._sample(index, self.normalization.apply(image), labels, maps)
        generator = sample_generator(self.seed, epoch, index)
        view = self._view(self.augmentation, image, labels, generator)
        if self.augmentation.further.copy_paste:
            view = self._pasted(self.augmentation, view, branch(generator, PASTE))
        light = self.augmentation.draw_light(generator)
        images = light.apply(view.image, self.normalization, generator=generator, outside=view.outside)
        return self._sample(index, images, view.labels, view.maps)

    def read(self, index: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Read one picture and its labels as they are in the files, unscaled and not normalized.

        Args:
            index: Of the pair.

        Returns:
            Image ``(H, W, C)`` and labels ``(H, W)``.

        Raises:
            DataError: A file cannot be read, image and mask differ in size, or a mask holds a value without a class.
        """
        pair, bands = self.pairs[index], self.normalization.bands

        def decode() -> tuple[NDArray[Any], NDArray[Any]]:
            return read_pair(pair, self.encoding, bands=bands, max_pixels=self.max_pixels)

        if self.cache is None:
            return decode()
        part = (pair.image_page, pair.mask_page, pair.window, pair.pages, [bit for bit, _ in pair.layers])
        how = f"{part} {bands} {self.encoding}"
        return self.cache.read(pair.files, how, decode)

    def _view(
        self,
        augmentation: Augmentation,
        image: NDArray[Any],
        labels: NDArray[Any],
        generator: np.random.Generator,
        *,
        rare: bool = False,
    ) -> _View:
        """Warp a picture, its labels and their maps.

        Args:
            augmentation: What is drawn.
            image: ``(H, W, C)``.
            labels: ``(H, W)``.
            generator: Of the sample.
            rare: Whether the window must hold a rare class, where there is one.

        Returns:
            What lies in the window.
        """
        further, around = augmentation.further, None
        if rare or further.rare_crop:
            own = branch(generator, PLACE)
            if own.random() < further.rare_crop or rare:
                around = draw_place(own, labels, self.rare if rare else range(self.encoding.num_classes))
        grid = augmentation.draw(generator, labels.shape, self.crop, around=around).grid()
        outside = grid.outside(*labels.shape)
        maps = {name: sample_image(make(labels), grid) for name, make in self.maps.items()}
        if outside is not None:
            maps = {name: np.where(outside, np.float32(0), values) for name, values in maps.items()}
        filled = self.normalization.fill(image)
        warped = sample_image(filled, grid, interpolation=further.interpolation)
        return _View(warped, sample_labels(labels, grid, fill=self.ignore_index), maps, outside)

    def _pasted(self, augmentation: Augmentation, view: _View, generator: np.random.Generator) -> _View:
        """Put the rare classes of another picture, warped by numbers of its own, over a sample."""
        if not self.rare or generator.random() >= augmentation.further.copy_paste:
            return view
        for donor in generator.integers(0, len(self), DONORS).tolist():
            image, labels = self.read(donor)
            if not bool(np.isin(labels, self.rare).any()):
                continue
            other = self._view(augmentation, image, labels, generator, rare=True)
            pasted = np.isin(other.labels, self.rare)
            outside = None if view.outside is None else view.outside & ~pasted
            maps = {name: np.where(pasted, other.maps[name], values) for name, values in view.maps.items()}
            image = np.where(pasted[:, :, None], other.image, view.image)
            return _View(image, np.where(pasted, other.labels, view.labels), maps, outside)
        return view

    def _sample(
        self, index: int, images: NDArray[np.float32], labels: NDArray[Any], maps: Mapping[str, NDArray[np.float32]]
    ) -> Sample:
        sample: Sample = {
            "images": torch.from_numpy(images),
            "target": torch.from_numpy(labels.astype(np.int64)),
            "index": index,
        }
        for name, values in maps.items():
            sample[name] = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        return sample


def collate(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Stack samples of one size to a batch.

    Args:
        samples: What the data set gave.

    Returns:
        ``{"images": (B, C, h, w), "target": (B, h, w), "index": (B,) int64}`` and the extra maps ``(B, h, w)``.

    Raises:
        DataError: The samples differ in size.
    """
    sizes = {tuple(sample["target"].shape) for sample in samples}
    if len(sizes) > 1:
        listed = ", ".join(f"{height}x{width}" for height, width in sorted(sizes))
        raise DataError(f"samples of one batch must have one size, got {listed}; set train.crop, or use batches of 1")
    batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0] if name != "index"}
    batch["index"] = torch.tensor([sample["index"] for sample in samples])
    return batch
