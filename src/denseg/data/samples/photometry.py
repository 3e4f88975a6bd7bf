# SPDX-License-Identifier: Apache-2.0
"""Changes of a sample's values, for any number of bands: blur, gain, brightness, contrast, colour, gamma, noise.

Everything happens in shares of the pictures' range of values (0..255 for 8 bits; else three standard deviations around
the mean of each band), so that one setting means the same for every kind of picture. What is linear is multiplied out
with the normalisation beforehand: a sample is passed over once where neither gamma nor blur is drawn.

Letters: C bands, h and w height and width in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from denseg.config import AugmentConfig
    from denseg.data.samples.normalization import Normalization

__all__ = ["Light", "draw_light"]

_LUMA = (0.299, 0.587, 0.114)  # grey of a colour, ITU-R BT.601
_YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))
DRAWS = 8


@dataclass(frozen=True)
class Light:
    """What is done to the values of one sample, in this order; values are shares of the range, ``u`` in 0..1.

    Attributes:
        blur: Sigma of a Gaussian, in pixels; 0 for none.
        saturation: Multiplies the distance to the pixel's grey; three bands only.
        hue: Degrees by which colours turn; three bands only.
        gain: Multiplies the values.
        brightness: Is added.
        contrast: Multiplies the distance to the sample's mean, of all bands.
        gamma: Power; values below 0 keep their sign.
        noise: Standard deviation of what is added to every value of every band on its own.
    """

    blur: float = 0.0
    saturation: float = 1.0
    hue: float = 0.0
    gain: float = 1.0
    brightness: float = 0.0
    contrast: float = 1.0
    gamma: float = 1.0
    noise: float = 0.0

    def apply(
        self,
        image: NDArray[Any],
        normalization: Normalization,
        *,
        generator: np.random.Generator,
        outside: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float32]:
        """Change the values of a sample, normalize it and put its bands first.

        Args:
            image: ``(h, w, C)``, any dtype; not changed.
            normalization: Of the data set.
            generator: Of the sample; drawn from where there is noise.
            outside: ``(h, w)`` pixels without a picture; they become the mean pixel, 0.

        Returns:
            ``(C, h, w)`` float32, contiguous. Values that are not finite become 0.

        Raises:
            DataError: The image has other bands than the normalization.
        """
        if self == Light():
            return normalization.apply(image, outside=outside)
        normalization.check_bands(image)
        if min(image.strides) < 0 or not image.flags.writeable:  # torch takes neither
            image = image.copy()
        planes = torch.from_numpy(image).permute(2, 0, 1)  # (C, h, w)
        values = planes.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        if image.dtype.kind == "f" and not np.isfinite(float(values.sum(dtype=torch.float64))):
            values = torch.nan_to_num_(values, nan=0.0, posinf=0.0, neginf=0.0)
        if self.blur > 0:
            values = _blurred(values, self.blur)
        low, high = normalization.limits()
        matrix, shift = self._linear(low, high, values)  # u = matrix @ values + shift
        span = (high - low) / (normalization.scale * np.asarray(normalization.std))
        base = (low / normalization.scale - np.asarray(normalization.mean)) / np.asarray(normalization.std)
        if self.gamma == 1:
            matrix, shift = span[:, None] * matrix, span * shift + base  # normalized = span * u + base
            values = _transformed(values, matrix, shift)
        else:
            values = _transformed(values, matrix, shift)
            values = values.abs().pow_(self.gamma).copysign_(values)
            values = _transformed(values, np.diag(span), base)
        if self.noise > 0:
            noise = _noise(tuple(values.shape), generator)
            values += noise.mul_(torch.from_numpy((self.noise * span).astype(np.float32))[:, None, None])
        if outside is not None:
            values.masked_fill_(torch.from_numpy(outside), 0.0)
        result: NDArray[np.float32] = values.numpy()
        return result

    def _linear(
        self, low: NDArray[np.float64], high: NDArray[np.float64], values: Tensor
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Multiply out range, colour, gain, brightness and contrast."""
        matrix, shift = np.diag(1 / (high - low)), -low / (high - low)
        if len(low) == 3 and (self.saturation != 1 or self.hue != 0):
            color = self._color()
            matrix, shift = color @ matrix, color @ shift
        matrix, shift = self.gain * matrix, self.gain * shift + self.brightness
        if self.contrast != 1:
            mean = (matrix @ values.mean(dim=(1, 2)).numpy().astype(np.float64) + shift).mean()
            matrix, shift = self.contrast * matrix, self.contrast * (shift - mean) + mean
        return matrix, shift

    def _color(self) -> NDArray[np.float64]:
        """Give the matrix of saturation and hue: a rotation and a scaling of the two chroma axes of YIQ."""
        angle = np.radians(self.hue)
        cosine, sine = self.saturation * np.cos(angle), self.saturation * np.sin(angle)
        to_yiq = np.asarray(_YIQ)
        turned = np.asarray(((1, 0, 0), (0, cosine, -sine), (0, sine, cosine)))
        color: NDArray[np.float64] = np.linalg.solve(to_yiq, turned @ to_yiq)
        return color


def draw_light(generator: np.random.Generator, ranges: AugmentConfig) -> Light:
    """Draw what is done to one sample; as many numbers are drawn whatever the ranges.

    Args:
        generator: Of the sample.
        ranges: How far each change may go.

    Returns:
        The changes.
    """
    even = generator.random(DRAWS)
    either = 2 * even - 1  # -1..1
    return Light(
        blur=float(even[0] * ranges.blur),
        saturation=float(1 + either[1] * ranges.saturation),
        hue=float(either[2] * ranges.hue),
        gain=float(1 + either[3] * ranges.gain),
        brightness=float(either[4] * ranges.brightness),
        contrast=float(1 + either[5] * ranges.contrast),
        gamma=float((1 + ranges.gamma) ** either[6]),
        noise=float(even[7] * ranges.noise),
    )


def _transformed(values: Tensor, matrix: NDArray[np.float64], shift: NDArray[np.float64]) -> Tensor:
    """Give ``matrix @ values + shift`` for every pixel; ``values`` is written over where the matrix is diagonal."""
    offset = torch.from_numpy(shift.astype(np.float32))
    if np.count_nonzero(matrix - np.diag(np.diagonal(matrix))) == 0:
        factor = torch.from_numpy(np.diagonal(matrix).astype(np.float32))
        return values.mul_(factor[:, None, None]).add_(offset[:, None, None])
    weights = torch.from_numpy(matrix.astype(np.float32))
    return torch.addmm(offset[:, None], weights, values.flatten(1)).view_as(values)


def _blurred(values: Tensor, sigma: float) -> Tensor:
    """Blur each band by a Gaussian, cut off at three sigma; the edge pixels are repeated beyond the edge.

    Shifted planes are added up: for kernels of this size faster than a convolution.
    """
    radius = min(max(1, round(3 * sigma)), *(side - 1 for side in values.shape[1:]))
    if radius < 1:
        return values
    kernel = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    weights = (kernel / (kernel[0] + 2 * kernel[1:].sum())).tolist()
    for axis in (1, 2):
        size = values.shape[axis]
        ends = values.narrow(axis, 0, 1), values.narrow(axis, size - 1, 1)
        shape = [radius if place == axis else side for place, side in enumerate(values.shape)]
        padded = torch.cat((ends[0].expand(shape), values, ends[1].expand(shape)), dim=axis)
        values = padded.narrow(axis, radius, size) * weights[0]
        for shift, weight in enumerate(weights[1:], 1):
            values.add_(padded.narrow(axis, radius - shift, size), alpha=weight)
            values.add_(padded.narrow(axis, radius + shift, size), alpha=weight)
    return values


@lru_cache(maxsize=1)
def _quantiles() -> NDArray[np.float32]:
    """Give the values that cut the normal distribution into 65,536 equal parts, at their middles."""
    from scipy.special import ndtri

    cuts: NDArray[np.float64] = ndtri((np.arange(1 << 16) + 0.5) / (1 << 16))
    return cuts.astype(np.float32)


def _noise(shape: tuple[int, ...], generator: np.random.Generator) -> Tensor:
    """Draw normal numbers in steps of 1/65,536 of their distribution: four from each 64 random bits."""
    count = math.prod(shape)
    bits = generator.bit_generator.random_raw(-(-count // 4)).astype("<u8", copy=False).view("<u2")
    return torch.from_numpy(np.take(_quantiles(), bits[:count])).view(shape)
