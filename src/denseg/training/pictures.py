# SPDX-License-Identifier: Apache-2.0
"""Pictures that a training leaves: a sheet of augmented samples before it begins, predictions after each validation.

Shape letters: B batch, C bands, H and W height and width, h and w of a small picture.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from denseg.files import write_atomic
from denseg.inference.writer import overlay_pixels, shown_bands, to_display

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from denseg.data.samples.dataset import SegmentationDataset
    from denseg.data.samples.normalization import Normalization
    from denseg.types import ClassTable

__all__ = ["Examples", "display_sample", "example_pictures", "prediction_strip", "sample_sheet", "write_sheet"]

Pixels = NDArray[np.uint8]

SAMPLES = 12
COLUMNS = 4
SIDE = 192
"""Pixels of the longest side of a small picture."""

EXAMPLES = 3
"""Validation images whose predictions are shown."""

GAP = 4
UNLABELLED = (128, 128, 128)


class Examples:
    """Keeps what was predicted for a few validation images while all are scored.

    Attributes:
        wanted: Indices of the images.
        labels: ``(H, W)`` of those that came, by index.
    """

    def __init__(self, count: int, *, step: int = 1) -> None:
        """Choose images evenly over the split.

        Args:
            count: How many images there are.
            step: Only every ``step``-th comes by here: as many processes share them.
        """
        mine = range(0, count, step)
        few = min(EXAMPLES, len(mine))
        self.wanted = tuple(mine[place * len(mine) // few] for place in range(few))  # none of none
        self.labels: dict[int, NDArray[Any]] = {}

    def __call__(self, indices: Tensor, labels: Tensor) -> None:
        """Take in a batch.

        Args:
            indices: ``(B,)`` of the images.
            labels: ``(B, H, W)`` predicted.
        """
        for place, index in enumerate(indices.tolist()):
            if index in self.wanted:
                self.labels[index] = labels[place].cpu().numpy()


def sample_sheet(dataset: SegmentationDataset, classes: ClassTable, *, epoch: int = 0) -> Pixels:
    """Draw training samples as the network will see them, each with its mask below.

    Args:
        dataset: The samples, augmented.
        classes: For the masks' colours; pixels without a label are grey.
        epoch: Whose random changes are shown.

    Returns:
        ``(h, w, 3)``.
    """
    count = min(SAMPLES, len(dataset))
    tiles = []
    for place in range(count):
        sample = dataset[(epoch, place * len(dataset) // count)]
        shown = display_sample(sample["images"].numpy(), dataset.normalization)
        tiles.append(np.concatenate(_small(shown, sample["target"].numpy(), classes), axis=0))
    return _grid(tiles, COLUMNS)


def prediction_strip(image: NDArray[Any], truth: NDArray[Any], prediction: NDArray[Any], classes: ClassTable) -> Pixels:
    """Put a picture, its mask and a prediction side by side.

    Args:
        image: ``(H, W, C)`` as it is in the file.
        truth: ``(H, W)`` labels, or ``ignore_index``.
        prediction: ``(H, W)`` labels.
        classes: For the colours.

    Returns:
        ``(h, w, 3)``.
    """
    shown = to_display(image)
    plain, masked = _small(shown, truth, classes)
    return np.concatenate([plain, masked, _small(shown, prediction, classes)[1]], axis=1)


def display_sample(images: NDArray[np.float32], normalization: Normalization) -> Pixels:
    """Undo the normalisation of a sample for a screen.

    Args:
        images: ``(C, H, W)``, normalised.
        normalization: What was applied.

    Returns:
        ``(H, W, 3)``.
    """
    std, mean = (np.asarray(values, np.float32) for values in (normalization.std, normalization.mean))
    stored = (images.transpose(1, 2, 0) * std + mean) * np.float32(normalization.scale)  # (H, W, C)
    low, high = (bound.astype(np.float32) for bound in normalization.limits())
    spread = np.where(high > low, high - low, np.float32(1))
    pixels = np.nan_to_num((stored - low) * (255 / spread)).clip(0, 255).round().astype(np.uint8)
    return to_display(shown_bands(pixels))


def write_sheet(path: Path, pixels: Pixels) -> None:
    """Write a sheet as WebP.

    Args:
        path: The file.
        pixels: ``(h, w, 3)``.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="WEBP", quality=82, method=2)
    write_atomic(path, buffer.getvalue())


def example_pictures(
    dataset: SegmentationDataset, labels: Mapping[int, NDArray[Any]], classes: ClassTable
) -> dict[str, Pixels]:
    """Draw the predictions that were kept.

    Args:
        dataset: The validation images.
        labels: Predicted labels by index.
        classes: For the colours.

    Returns:
        Pictures by the stem of the image.
    """
    pictures = {}
    for index, prediction in sorted(labels.items()):
        image, truth = dataset.read(index)
        pictures[dataset.pairs[index].stem] = prediction_strip(image, truth, prediction, classes)
    return pictures


def _small(shown: Pixels, labels: NDArray[Any], classes: ClassTable) -> tuple[Pixels, Pixels]:
    """Shrink a picture, and the same under its labels' colours."""
    height, width = labels.shape
    factor = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    picture = np.asarray(Image.fromarray(shown).resize(size, Image.Resampling.BOX))
    place = np.where((labels >= 0) & (labels < len(classes)), labels, len(classes)).astype(np.int32)
    small = np.asarray(Image.fromarray(place).resize(size, Image.Resampling.NEAREST))
    return picture, overlay_pixels(picture, small, [*classes.colors, UNLABELLED])


def _grid(tiles: Sequence[Pixels], columns: int) -> Pixels:
    """Lay pictures of about one size out in rows, white between them."""
    height, width = (max(tile.shape[axis] for tile in tiles) + GAP for axis in (0, 1))
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * height - GAP, min(columns, len(tiles)) * width - GAP, 3), 255, np.uint8)
    for place, tile in enumerate(tiles):
        top, left = place // columns * height, place % columns * width
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet
