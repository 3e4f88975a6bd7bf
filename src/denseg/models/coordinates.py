# SPDX-License-Identifier: Apache-2.0
"""Where the positions of a map lie in the image, what they see, and so: by how much one map is cropped onto another.

Position ``y`` of a map is centred at ``stride * y + offset`` in image pixels and sees ``field`` pixels around. Valid
convolutions, pools and transposed convolutions each change the three numbers by a rule of their own; crop offsets
follow, for any padding and any network, instead of being constants.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from denseg.errors import UsageError

__all__ = ["Place", "bilinear_kernel_size"]


class Place(NamedTuple):
    """How a map lies on the image, along one axis.

    Attributes:
        stride: Image pixels between neighbouring positions.
        offset: Image pixel on which position 0 is centred; negative where padding puts it outside.
        field: Side of what a position sees, in image pixels: the receptive field.
    """

    stride: Fraction = Fraction(1)
    offset: Fraction = Fraction(0)
    field: Fraction = Fraction(1)

    def conv(self, kernel: int, *, stride: int = 1, padding: int = 0, dilation: int = 1) -> Place:
        """Follow a convolution or a pool.

        Args:
            kernel: Side of the kernel.
            stride: Of the convolution.
            padding: On each side.
            dilation: Distance between the kernel's taps.

        Returns:
            The place of its output.
        """
        reach = dilation * (kernel - 1)
        return Place(
            self.stride * stride,
            self.offset + self.stride * (Fraction(reach, 2) - padding),
            self.field + self.stride * reach,
        )

    def grow(self, kernel: int, *, stride: int) -> Place:
        """Follow a transposed convolution without padding.

        Args:
            kernel: Side of the kernel.
            stride: Of the transposed convolution.

        Returns:
            The place of its output. Its field counts each position's own centre alone.
        """
        fine = self.stride / stride
        return Place(fine, self.offset - fine * Fraction(kernel - 1, 2), self.field)

    def crop_onto(self, other: Place) -> int:
        """Say where the positions of another map begin in this one.

        Args:
            other: The map that this one is cropped to; of the same stride.

        Returns:
            Positions to drop at the start.

        Raises:
            UsageError: The two grids do not coincide, or this map begins later than the other.
        """
        start = (other.offset - self.offset) / self.stride
        if self.stride != other.stride or start.denominator != 1:
            raise UsageError(
                f"maps of stride {self.stride} and {other.stride}, {start} positions apart, have no common grid"
            )
        if start < 0:
            raise UsageError(f"the map begins {-start} positions inside the other; more padding is needed")
        return int(start)


def bilinear_kernel_size(place: Place, stride: int, onto: Place) -> int:
    """Choose the bilinear kernel that grows a map onto another map's grid: of twice the stride, or one less.

    Args:
        place: The map that grows.
        stride: By how much.
        onto: The map that it is to meet, of the finer stride.

    Returns:
        ``2 * stride`` where the grids then coincide, else ``2 * stride - 1``.
    """
    start = (onto.offset - place.grow(2 * stride, stride=stride).offset) / onto.stride
    return 2 * stride if start.denominator == 1 else 2 * stride - 1
