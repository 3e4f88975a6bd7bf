# SPDX-License-Identifier: Apache-2.0
"""What a model tells when it is run once on a small image of zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from denseg.models.interface import SegmentationModel

__all__ = ["feature_channels"]


@torch.no_grad()
def feature_channels(model: SegmentationModel) -> int:
    """Count the channels of ``SegmentationOutput.features``, for losses that read them.

    Args:
        model: The model; its mode and its statistics stay as they are.

    Returns:
        D.
    """
    was_training = model.training
    model.eval()
    weight = next(model.parameters())
    size = model.geometry.min_size
    output = model(weight.new_zeros(1, model.in_channels, size, size))
    model.train(was_training)
    channels: int = output.features.shape[1]
    return channels
