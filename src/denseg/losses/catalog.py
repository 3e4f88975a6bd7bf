# SPDX-License-Identifier: Apache-2.0
"""Every loss by the name that a recipe uses."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from denseg.losses.boundary import BoundaryLoss
from denseg.losses.cross_entropy import CrossEntropyLoss
from denseg.losses.dice import DiceLoss
from denseg.losses.focal import FocalLoss
from denseg.losses.hfd import HFDLoss
from denseg.losses.lovasz import LovaszLoss
from denseg.losses.ohem import OHEMLoss
from denseg.losses.tversky import TverskyLoss

__all__ = ["LOSSES"]

LOSSES: Mapping[str, type[nn.Module]] = MappingProxyType(
    {
        "boundary": BoundaryLoss,
        "cross_entropy": CrossEntropyLoss,
        "dice": DiceLoss,
        "focal": FocalLoss,
        "hfd": HFDLoss,
        "lovasz": LovaszLoss,
        "ohem": OHEMLoss,
        "tversky": TverskyLoss,
    }
)
