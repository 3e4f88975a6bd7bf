# SPDX-License-Identifier: Apache-2.0
"""What training, inference and checkpoints may ask of any model.

A base class for its annotations alone: a ``Protocol`` cannot be an ``nn.Module``. It holds no layer and no behaviour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from denseg.types import Geometry, ModelSpec, SegmentationOutput

__all__ = ["SegmentationModel"]


class SegmentationModel(nn.Module):
    """Interface of all models.

    Attributes:
        num_classes: Classes scored per pixel, K.
        in_channels: Image bands.
        geometry: How the output grid lies on the input grid.
        spec: Name and arguments that build the model again; attached by ``create_model``.
    """

    num_classes: int
    in_channels: int
    geometry: Geometry
    spec: ModelSpec

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel.

        Args:
            images: ``(B, C, H, W)``, floating point.

        Returns:
            The scores.

        Raises:
            NotImplementedError: A model must define it.
        """
        raise NotImplementedError
