# SPDX-License-Identifier: Apache-2.0
"""What can be told to be wrong before the data are read."""

from __future__ import annotations

import torch

from denseg.config import RunConfig, stage_configs
from denseg.inference.device import choose_device
from denseg.losses.composite import loss_options
from denseg.models.checkpoint import checkpoint_path
from denseg.training.setup import create_stage_model

__all__ = ["check_wishes"]


def check_wishes(config: RunConfig) -> None:
    """Build every network that a run will need without its memory, and look for its device and first weights.

    Reading a large folder takes minutes; a misspelt name must not wait for them. The classes and bands are not known
    yet, so two and three stand for them.

    Args:
        config: What the user said, over recipe and defaults.

    Raises:
        UsageError: A model, backbone, option, loss or device is not there.
        UnsupportedError: The backbone cannot do what the model needs.
        CheckpointError: There are no weights where ``init`` says.
    """
    choose_device(config.device)
    if config.init not in {"none", "imagenet"}:
        checkpoint_path(config.init)
    for stage, (_, train) in enumerate(stage_configs(config)):
        for name in train.loss:
            loss_options(name)
        with torch.device("meta"):
            create_stage_model(config, stage, num_classes=2, bands=3, pretrained=False)
