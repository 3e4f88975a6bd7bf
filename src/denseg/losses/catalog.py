# SPDX-License-Identifier: Apache-2.0
"""Every loss by the name that a recipe uses."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from denseg.losses.cross_entropy import CrossEntropyLoss
from denseg.losses.dice import DiceLoss
from denseg.losses.hfd import HFDLoss

__all__ = ["LOSSES"]

LOSSES: Mapping[str, type[nn.Module]] = MappingProxyType(
    {
        "cross_entropy": CrossEntropyLoss,
        "dice": DiceLoss,
        "hfd": HFDLoss,
    }
)
