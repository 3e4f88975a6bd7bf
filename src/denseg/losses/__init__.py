# SPDX-License-Identifier: Apache-2.0
"""Losses: a pure function and a thin class each, summed by name in ``CompositeLoss``."""

from __future__ import annotations

from denseg.losses.border_weight import BorderWeights, border_weight_map
from denseg.losses.boundary import BoundaryLoss, boundary_loss
from denseg.losses.catalog import LOSSES
from denseg.losses.composite import CompositeLoss, Loss, create_loss
from denseg.losses.cross_entropy import CrossEntropyLoss, cross_entropy_loss
from denseg.losses.dice import DiceLoss, dice_loss
from denseg.losses.focal import FocalLoss, focal_loss
from denseg.losses.hfd import HFDLoss
from denseg.losses.lovasz import LovaszLoss, lovasz_loss
from denseg.losses.ohem import OHEMLoss, ohem_loss
from denseg.losses.tversky import TverskyLoss, tversky_loss

__all__ = [
    "LOSSES",
    "BorderWeights",
    "BoundaryLoss",
    "CompositeLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "FocalLoss",
    "HFDLoss",
    "Loss",
    "LovaszLoss",
    "OHEMLoss",
    "TverskyLoss",
    "border_weight_map",
    "boundary_loss",
    "create_loss",
    "cross_entropy_loss",
    "dice_loss",
    "focal_loss",
    "lovasz_loss",
    "ohem_loss",
    "tversky_loss",
]
