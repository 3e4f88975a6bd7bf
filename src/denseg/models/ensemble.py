# SPDX-License-Identifier: Apache-2.0
"""Several networks of one kind that vote: the mean of their probabilities, as one model.

Shape letters: B batch, C image bands, K classes, D channels, H and W image height and width, h and w feature height and
width, M members.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from denseg.errors import UsageError
from denseg.models.interface import SegmentationModel
from denseg.types import SegmentationOutput

__all__ = ["Ensemble"]


class Ensemble(SegmentationModel):
    """Networks of one kind, each with weights of its own.

    Attributes:
        members: The networks.
    """

    def __init__(self, members: Sequence[SegmentationModel]) -> None:
        """Put networks together.

        Args:
            members: At least two, alike in classes, bands and geometry.

        Raises:
            UsageError: There are fewer, or they are not alike.
        """
        super().__init__()
        if len(members) < 2:
            raise UsageError(f"an ensemble has at least 2 members, got {len(members)}")
        kinds = {(member.num_classes, member.in_channels, member.geometry) for member in members}
        if len(kinds) > 1:
            raise UsageError("the members of an ensemble must be alike in classes, bands and geometry")
        self.members = nn.ModuleList(members)
        self.num_classes = members[0].num_classes
        self.in_channels = members[0].in_channels
        self.geometry = members[0].geometry

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Average what the members say.

        Args:
            images: ``(B, C, H, W)``, floating point.

        Returns:
            ``logits`` whose softmax is the mean of the members' probabilities; ``heatmap`` likewise at its own size;
            ``features`` of all members, ``(B, M * D, h, w)``.
        """
        outputs = [member(images) for member in self.members]
        logits = _log_mean([output.logits for output in outputs])
        heatmap = _log_mean([output.heatmap for output in outputs])
        return SegmentationOutput(logits, (), heatmap, torch.cat([output.features for output in outputs], dim=1))


def _log_mean(scores: Sequence[Tensor]) -> Tensor:
    """Logarithm of the mean over members of softmax, ``(B, K, h, w)``; finite however sure they are."""
    logs = torch.stack([member.log_softmax(dim=1) for member in scores])  # (M, B, K, h, w)
    return logs.logsumexp(dim=0) - torch.tensor(float(len(scores)), device=logs.device, dtype=logs.dtype).log()
