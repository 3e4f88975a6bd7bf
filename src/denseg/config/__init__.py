# SPDX-License-Identifier: Apache-2.0
"""The configuration of a run: frozen, strict, written into the run folder, and enough to replay it."""

from __future__ import annotations

from denseg.config.augment import AugmentConfig, ElasticConfig
from denseg.config.load import dump_config, known_keys, load_config, parse_setting, recipe_names
from denseg.config.sections import DataConfig, ModelConfig, PartConfig, RunConfig, StageConfig, stage_configs
from denseg.config.train import TrainConfig
from denseg.config.units import Budget, parse_budget

__all__ = [
    "AugmentConfig",
    "Budget",
    "DataConfig",
    "ElasticConfig",
    "ModelConfig",
    "PartConfig",
    "RunConfig",
    "StageConfig",
    "TrainConfig",
    "dump_config",
    "known_keys",
    "load_config",
    "parse_budget",
    "parse_setting",
    "recipe_names",
    "stage_configs",
]
