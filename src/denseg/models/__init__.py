# SPDX-License-Identifier: Apache-2.0
"""Models: an image becomes class scores for every pixel."""

from __future__ import annotations

from denseg.models.catalog import MODELS, ModelEntry, create_model, split_parameters
from denseg.models.checkpoint import Checkpoint, LoadReport, load_checkpoint, load_weights, save_checkpoint
from denseg.models.convolutional import fully_convolutional
from denseg.models.interface import SegmentationModel
from denseg.models.probe import feature_channels
from denseg.types import SegmentationOutput

__all__ = [
    "MODELS",
    "Checkpoint",
    "LoadReport",
    "ModelEntry",
    "SegmentationModel",
    "SegmentationOutput",
    "create_model",
    "feature_channels",
    "fully_convolutional",
    "load_checkpoint",
    "load_weights",
    "save_checkpoint",
    "split_parameters",
]
