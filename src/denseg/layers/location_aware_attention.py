# SPDX-License-Identifier: Apache-2.0
"""Location-aware attention: a position is weighted by how it relates to its surroundings at several distances.

Paper:
    C. Li, W. Kang, S. Zhu, X. Ye, Z. Feng, Y. Ming, "HDNet: Hybrid Distance Network for semantic segmentation",
    Neurocomputing 447 (2021) 129-144. https://doi.org/10.1016/j.neucom.2021.02.045 - location-aware attention.
Reference code:
    https://github.com/Anstarc/HDNet (not copied; it has no licence).
Departures from the paper:
    ``gate="sigmoid"`` is not the paper's: its gate is a ReLU, without an upper bound.
Cost:
    328,449 parameters at 512 channels; linear in the number of positions, where dense attention is quadratic.

Shape letters: B batch, C channels, D = C // reduction, h and w feature height and width, n relation maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from denseg.errors import UsageError
from denseg.layers.conv import init_conv
from denseg.layers.hybrid_distance_relation import Distance, HybridDistanceRelation, Pool
from denseg.layers.norm import BatchNorm2d

__all__ = ["NO_GRADIENT", "LocationAwareAttention"]

NO_GRADIENT = MappingProxyType({"interaction.bias": "a bias before batch norm is subtracted with the mean"})


class LocationAwareAttention(nn.Module):
    """y = x + phi(u x), with u from the relations of theta(x)."""

    def __init__(  # noqa: PLR0913 - the options of the relation are the options of the layer
        self,
        in_channels: int,
        *,
        reduction: int = 4,
        windows: Sequence[int] = (3, 5, 7, 9, 11, 15, 19),
        pools: Sequence[Pool] = ("avg", "max"),
        distance: Distance = "cosine",
        aggregate: Literal["pool", "atrous"] = "pool",
        rings: bool = False,
        kernel_size: int = 3,
        gate: Literal["relu", "sigmoid"] = "relu",
    ) -> None:
        """Create the three convolutions.

        Args:
            in_channels: Channels of the input and of the output, C.
            reduction: Divides C to give the width D that relations are computed on; 512 to 128 as released.
            windows: Odd sides of the relation's windows, in positions.
            pools: How a window becomes one vector.
            distance: How two vectors are compared.
            aggregate: ``pool`` or ``atrous``, see ``HybridDistanceRelation``.
            rings: Relations with a hole, see ``HybridDistanceRelation``.
            kernel_size: Of the interaction; 3 as released.
            gate: ``relu`` as released, or ``sigmoid``.

        Raises:
            UsageError: ``in_channels`` is less than ``reduction``, or an option is unknown.
        """
        super().__init__()
        if in_channels < reduction:
            raise UsageError(f"in_channels must be at least reduction ({reduction}), got {in_channels}")
        if gate not in {"relu", "sigmoid"}:
            raise UsageError(f"gate is 'relu' or 'sigmoid', got {gate!r}")
        self.gate = gate
        self.theta = nn.Conv2d(in_channels, in_channels // reduction, 1)
        self.relation = HybridDistanceRelation(
            windows=windows, pools=pools, distance=distance, aggregate=aggregate, rings=rings
        )
        self.interaction = nn.Conv2d(self.relation.out_channels, 1, kernel_size, padding=kernel_size // 2)
        self.norm = BatchNorm2d(1)
        self.phi = nn.Conv2d(in_channels, in_channels, 1)
        for conv in (self.theta, self.interaction, self.phi):
            init_conv(conv)

    def forward(self, features: Tensor) -> Tensor:
        """Add what the attention lets through.

        Args:
            features: ``(B, C, h, w)``, floating point.

        Returns:
            ``(B, C, h, w)``.
        """
        context: Tensor = self.phi(self.attention(features) * features)
        return features + context  # (B, C, h, w)

    def attention(self, features: Tensor) -> Tensor:
        """Compute the weight u of every position.

        Args:
            features: ``(B, C, h, w)``, floating point.

        Returns:
            ``(B, 1, h, w)``: at least 0, and with the sigmoid at most 1.
        """
        relations = self.relation(self.theta(features))  # (B, n, h, w)
        scores: Tensor = self.norm(self.interaction(relations))  # (B, 1, h, w)
        return F.relu(scores) if self.gate == "relu" else scores.sigmoid()
