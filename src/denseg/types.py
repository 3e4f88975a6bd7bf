# SPDX-License-Identifier: Apache-2.0
"""The few values that cross package borders. Importing this module imports no torch.

Shape letters: B batch, K classes, D feature channels, H and W image height and width, h and w feature height and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from denseg.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["ClassTable", "ExportFormat", "FeatureSpec", "Geometry", "ModelSpec", "SegmentationOutput"]

ExportFormat = Literal["onnx", "openvino", "pt2"]


class SegmentationOutput(NamedTuple):
    """What every model returns, in training and in evaluation alike.

    Attributes:
        logits: ``(B, K, H, W)`` scores, never softmaxed, of the input's size (a paper's valid form: its own size).
        aux_logits: Scores of auxiliary classifiers, each ``(B, K, H, W)``; empty where the model has none.
        heatmap: ``(B, K, h, w)`` scores before they are brought to the input's size.
        features: ``(B, D, h, w)`` input of the last classifier; where scores of several classifiers are summed, the
            input of the deepest one.
    """

    logits: Tensor
    aux_logits: tuple[Tensor, ...]
    heatmap: Tensor
    features: Tensor


class FeatureSpec(NamedTuple):
    """One level of a backbone's feature pyramid.

    Attributes:
        channels: Channels of the level.
        stride: Input pixels between neighbouring positions of the level.
    """

    channels: int
    stride: int


@dataclass(frozen=True)
class Geometry:
    """How a model's output grid lies on its input grid.

    Attributes:
        margin: Pixels that the output is smaller than the input on each side (0 for same-size models; 92 for the
            valid U-Net).
        score_stride: Input pixels between neighbouring heatmap positions.
        total_stride: Shifting the input by this much shifts the logits by as much, for convolutional models: the
            deepest level's stride. Canvas, tile offsets and exported sizes are multiples of it.
        size_step: A valid form accepts only input sizes ``size_offset + size_step * k``; 1 where any size goes.
        size_offset: See ``size_step``.
        min_size: Smallest height and width accepted, in pixels.
        seam: Outermost pixels of a valid form's result that depend on where its input ends (interpolation, padding of
            inner maps); tiles overlap by them. 0 where there are none, and for models without a margin.
    """

    margin: int = 0
    score_stride: int = 1
    total_stride: int = 1
    size_step: int = 1
    size_offset: int = 0
    min_size: int = 1
    seam: int = 0


@dataclass(frozen=True)
class ModelSpec:
    """The name and arguments that build a model again: what a checkpoint stores.

    Attributes:
        name: Catalog name, for example ``unet``.
        arguments: Keyword arguments of ``create_model`` as JSON values (``num_classes``, ``backbone``, ``in_channels``,
            …), without ``pretrained``.
    """

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class ClassTable:
    """Names and colours of the classes, and the label that means "no label".

    Attributes:
        names: One name per class, index order.
        colors: One ``(red, green, blue)`` in 0..255 per class.
        ignore_index: Label value (after mapping) that carries no class; outside ``0..len(names)-1``.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    ignore_index: int = 255

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colors):
            raise UsageError(
                f"a class table needs one colour per name, got {len(self.names)} names and {len(self.colors)} colours"
            )
        if len(set(self.names)) != len(self.names):
            raise UsageError(f"class names must differ from each other, got {list(self.names)}")
        if 0 <= self.ignore_index < len(self.names):
            raise UsageError(
                f"ignore_index {self.ignore_index} is also class {self.names[self.ignore_index]!r}; "
                f"use a value outside 0..{len(self.names) - 1}"
            )

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def numbered(cls, num_classes: int, *, ignore_index: int = 255) -> ClassTable:
        """Name classes ``class_0`` … and give them the PASCAL VOC colours.

        Args:
            num_classes: How many classes.
            ignore_index: Label value without a class; moved past the classes where it would be one of them.

        Returns:
            The table.
        """
        ignore = ignore_index if not 0 <= ignore_index < num_classes else max(num_classes, 65535)
        return cls(tuple(f"class_{index}" for index in range(num_classes)), distinct_colors(num_classes), ignore)

    def to_json(self) -> dict[str, Any]:
        """Give the table as JSON values: ``{"names": […], "colors": [[r, g, b], …], "ignore_index": n}``."""
        colors = [list(color) for color in self.colors]
        return {"names": list(self.names), "colors": colors, "ignore_index": self.ignore_index}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ClassTable:
        """Build the table from what ``to_json`` gave."""
        colors = tuple((int(red), int(green), int(blue)) for red, green, blue in value["colors"])
        return cls(tuple(value["names"]), colors, int(value["ignore_index"]))


def distinct_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """Give the PASCAL VOC colour map: bits of the index spread over the high bits of red, green and blue.

    Args:
        count: How many colours; index 0 is black.

    Returns:
        ``count`` colours, ``(red, green, blue)`` in 0..255.
    """
    colors = []
    for index in range(count):
        red = green = blue = 0
        rest = index
        for shift in range(7, -1, -1):
            red |= (rest & 1) << shift
            green |= ((rest >> 1) & 1) << shift
            blue |= ((rest >> 2) & 1) << shift
            rest >>= 3
        colors.append((red, green, blue))
    return tuple(colors)
