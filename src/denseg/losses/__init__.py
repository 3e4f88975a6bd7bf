# SPDX-License-Identifier: Apache-2.0
"""Losses: a pure function and a thin class each, summed by name in ``CompositeLoss``."""

from __future__ import annotations

from denseg.losses.catalog import LOSSES
from denseg.losses.composite import CompositeLoss, Loss, create_loss
from denseg.losses.cross_entropy import CrossEntropyLoss, cross_entropy_loss
from denseg.losses.dice import DiceLoss, dice_loss

__all__ = [
    "LOSSES",
    "CompositeLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "Loss",
    "create_loss",
    "cross_entropy_loss",
    "dice_loss",
]
