# SPDX-License-Identifier: Apache-2.0
"""What a backbone is to a model: a pyramid of feature maps and its description.

Shape letters: B batch, C channels, H and W image height and width, h and w feature height and width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from denseg.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor

    from denseg.types import FeatureSpec

__all__ = ["Backbone"]


class Backbone(nn.Module):
    """Interface of all backbones.

    Attributes:
        specs: One entry per level, finest first; strides never fall. A dilated backbone repeats its last stride.
        in_channels: Image bands.
        name: What ``create_backbone`` takes to build it; empty for an encoder that belongs to one model.
        pretrained: Whether it starts from trained weights.
    """

    specs: tuple[FeatureSpec, ...]
    in_channels: int
    name: str = ""
    pretrained: bool = False

    @property
    def output_stride(self) -> int:
        """Input pixels per position of the deepest level."""
        return self.specs[-1].stride

    def level(self, stride: int) -> int | None:
        """Find the level of a stride.

        Args:
            stride: Input pixels per position.

        Returns:
            Index of the first level of that stride, ``None`` where there is none.
        """
        return next((index for index, spec in enumerate(self.specs) if spec.stride == stride), None)

    def require_level(self, stride: int, *, by: str) -> int:
        """Find the level of a stride that a model cannot do without.

        Args:
            stride: Input pixels per position.
            by: The model that needs it, for the message.

        Returns:
            Index of the first level of that stride.

        Raises:
            UnsupportedError: The backbone has no such level.
        """
        index = self.level(stride)
        if index is None:
            strides = ", ".join(str(spec.stride) for spec in self.specs)
            raise UnsupportedError(
                f"{by} needs a feature map of stride {stride}, backbone {self.name!r} has strides {strides}; "
                "take a convolutional backbone such as resnet50, convnext_tiny or mobilenetv2_100"
            )
        return index

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the pyramid.

        Args:
            images: ``(B, C, H, W)``, floating point, any H and W >= 1.

        Returns:
            One ``(B, C', h, w)`` per entry of ``specs``, in their order.

        Raises:
            NotImplementedError: A backbone must define it.
        """
        raise NotImplementedError
