# SPDX-License-Identifier: Apache-2.0
"""From stored pixel values to what a network sees: value range, mean and standard deviation per band.

Shape letters: C bands, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from denseg.errors import DataError, UsageError

__all__ = ["Normalization"]

# Mean and standard deviation of ImageNet's training pictures in 0..1, as torchvision and timm use them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EIGHT_BITS = 255.0
PIXELS = 20_000  # of each image, for percentiles


@dataclass(frozen=True)
class Normalization:
    """``(value / scale - mean) / std`` per band; stored in the checkpoint and applied by the predictor too.

    Attributes:
        mean: One value per band, after division by ``scale``.
        std: One positive value per band, after division by ``scale``.
        scale: What stored values are divided by: 255 for 8 bits, 65535 for 16 bits, 1 for floats.
        neighbours: Slices on either side of a stack's slice whose bands are given with its own.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0
    neighbours: int = 0

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise UsageError(
                f"a normalization needs one mean and one std per band, got {len(self.mean)} and {len(self.std)}"
            )
        if not all(np.isfinite((*self.mean, *self.std, self.scale))) or min(*self.std, self.scale) <= 0:
            raise UsageError(
                "a normalization needs finite means and positive std and scale, "
                f"got mean {list(self.mean)}, std {list(self.std)}, scale {self.scale}"
            )

    @property
    def bands(self) -> int:
        """Bands of the images that this fits."""
        return len(self.mean)

    @classmethod
    def imagenet(cls, *, scale: float = 255.0) -> Normalization:
        """Give the statistics that pretrained backbones expect of three-band pictures.

        Args:
            scale: Value range of the stored pixels.

        Returns:
            The normalization.
        """
        return cls(IMAGENET_MEAN, IMAGENET_STD, scale)

    @classmethod
    def fit(cls, images: Iterable[np.ndarray]) -> Normalization:
        """Measure mean and standard deviation per band over images; values that are not finite are left out.

        The value range comes from the dtype: 255 for uint8, 65535 for uint16, 1 otherwise. A band without spread gets
        a standard deviation of 1, so that it becomes constant zero rather than infinite.

        Args:
            images: ``(H, W, C)`` or ``(H, W)`` arrays of equal dtype and equal number of bands.

        Returns:
            The normalization.

        Raises:
            DataError: There is no image, the bands differ, or the dtypes have different value ranges.
        """
        count = total = square = np.zeros(0)
        scale = 0.0
        for image in images:
            flat = image.reshape(-1, 1 if image.ndim == 2 else image.shape[2])  # (H * W, C)
            if scale == 0.0:
                count, total, square = (np.zeros(flat.shape[1]) for _ in range(3))
                scale = value_range(image.dtype)
            if flat.shape[1] != len(count):
                raise DataError(f"images must have equal bands, got {len(count)} and {flat.shape[1]}")
            if value_range(image.dtype) != scale:
                raise DataError(f"images must have one value range, got 0..{scale:g} and {image.dtype} pixels")
            if flat.dtype.kind == "f":
                finite = np.isfinite(flat)
                values = np.where(finite, flat, 0).astype(np.float64)
                count += finite.sum(axis=0)
            else:
                values = flat.astype(np.float64)
                count += len(flat)
            total += values.sum(axis=0)
            square += np.einsum("nc,nc->c", values, values)
        if scale == 0.0:
            raise DataError("a normalization cannot be measured without an image")
        seen = np.maximum(count, 1)
        mean = total / seen
        std = np.sqrt(np.maximum(square / seen - mean**2, 0.0)) / scale
        std[std < 1e-6] = 1.0
        return cls(tuple((mean / scale).tolist()), tuple(std.tolist()), scale)

    @classmethod
    def fit_percentiles(cls, images: Iterable[np.ndarray], low: float, high: float) -> Normalization:
        """Measure two percentiles per band over images: they become -1 and 1, whatever lies beyond them.

        Every image gives as many pixels, taken evenly; values that are not finite are left out. A band whose
        percentiles are equal becomes constant.

        Args:
            images: ``(H, W, C)`` arrays of equal dtype and equal number of bands.
            low: Percentile, 0 to 100.
            high: Percentile above it.

        Returns:
            The normalization.

        Raises:
            DataError: There is no image, the bands differ, or the dtypes have different value ranges.
        """
        samples: list[np.ndarray] = []
        scales: set[float] = set()
        for image in images:
            flat = image.reshape(-1, 1 if image.ndim == 2 else image.shape[2])  # (H * W, C)
            samples.append(flat[:: -(-len(flat) // PIXELS)].astype(np.float64))
            scales.add(value_range(image.dtype))
        if not samples:
            raise DataError("a normalization cannot be measured without an image")
        bands = [sample.shape[1] for sample in samples]
        if len(set(bands)) > 1:
            raise DataError(
                f"images must have equal bands, got {bands[0]} and {next(b for b in bands if b != bands[0])}"
            )
        if len(scales) > 1:
            listed = " and ".join(f"0..{scale:g}" for scale in sorted(scales))
            raise DataError(f"images must have one value range, got {listed}")
        (scale,) = scales
        values = np.concatenate(samples)
        ends = []
        for band in values.T:
            finite = band[np.isfinite(band)]
            ends.append(np.percentile(finite, (low, high)) if len(finite) else np.zeros(2))
        first, last = np.asarray(ends).T / scale
        std = (last - first) / 2
        std[std < 1e-12] = 1.0
        return cls(tuple(((first + last) / 2).tolist()), tuple(std.tolist()), scale)

    def fill(self, image: np.ndarray) -> np.ndarray:
        """Put the mean pixel where there is no data, so that interpolation does not spread the hole.

        Args:
            image: ``(H, W, C)``; not changed.

        Returns:
            The same array where all values are finite, else a copy.
        """
        if image.dtype.kind != "f" or np.isfinite(image.sum(dtype=np.float64)):
            return image
        mean = np.asarray(self.mean, dtype=image.dtype) * image.dtype.type(self.scale)
        return np.where(np.isfinite(image), image, mean)

    def apply(self, image: np.ndarray, *, outside: np.ndarray | None = None) -> np.ndarray:
        """Normalize one image and put its bands first.

        Args:
            image: ``(H, W, C)``, or ``(H, W)`` where there is one band; any dtype; not changed.
            outside: ``(H, W)`` bool, pixels without a picture; they become the mean pixel, 0.

        Returns:
            ``(C, H, W)`` float32, contiguous. Values that are not finite become 0.

        Raises:
            DataError: The image has another number of bands.
        """
        self.check_bands(image)
        factor = 1.0 / (self.scale * np.asarray(self.std, dtype=np.float64))
        shift = -np.asarray(self.mean, dtype=np.float64) / np.asarray(self.std, dtype=np.float64)
        planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
        result = np.empty(planes.shape, dtype=np.float32)
        np.multiply(planes, factor.astype(np.float32)[:, None, None], out=result, casting="unsafe")
        result += shift.astype(np.float32)[:, None, None]
        if image.dtype.kind == "f" and not np.isfinite(result.sum(dtype=np.float64)):  # one sum is cheaper than looking
            np.nan_to_num(result, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        if outside is not None:
            np.copyto(result, np.float32(0), where=outside)
        return result

    def check_bands(self, image: np.ndarray) -> None:
        """Refuse an image of other bands.

        Args:
            image: ``(H, W, C)``, or ``(H, W)`` where there is one band.

        Raises:
            DataError: The image has another number of bands.
        """
        bands = 1 if image.ndim == 2 else image.shape[2]
        if bands != self.bands:
            raise DataError(f"an image of {self.bands} bands was expected, as those in training; got {bands} bands")

    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Give the range of values that pictures of this data set have.

        Returns:
            Lowest and highest stored value of each band, ``(C,)`` float64: 0 and 255 for 8 bits, else three standard
            deviations around the mean, where 16 bits do not go beyond 0 and 65535.
        """
        if self.scale == EIGHT_BITS:
            return np.zeros(self.bands), np.full(self.bands, EIGHT_BITS)
        mean, std = np.asarray(self.mean, np.float64), np.asarray(self.std, np.float64)
        low, high = mean - 3 * std, mean + 3 * std
        if self.scale != 1:
            low, high = low.clip(0, 1), high.clip(0, 1)
        return low * self.scale, high * self.scale

    def to_json(self) -> dict[str, Any]:
        """Give ``{"mean": […], "std": […], "scale": s, "bands": C}``."""
        value = {"mean": list(self.mean), "std": list(self.std), "scale": self.scale, "bands": self.bands}
        return value | ({"neighbours": self.neighbours} if self.neighbours else {})

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Normalization:
        """Build it from what ``to_json`` gave.

        Args:
            value: The mapping; ``bands`` may be absent.

        Returns:
            The normalization.

        Raises:
            UsageError: Mean, std or bands do not fit each other.
        """
        result = cls(
            tuple(float(x) for x in value["mean"]),
            tuple(float(x) for x in value["std"]),
            float(value.get("scale", 255)),
            int(value.get("neighbours", 0)),
        )
        if value.get("bands", result.bands) != result.bands:
            raise UsageError(f"the normalization says {value['bands']} bands and holds {result.bands} means")
        return result


def value_range(dtype: np.dtype[Any]) -> float:
    """Give the largest stored value of a pixel type: what divides it to 0..1; 1 for floats."""
    return float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0
