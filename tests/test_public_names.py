# SPDX-License-Identifier: Apache-2.0
"""The names that other people's code may rely on. Taking one away is a change of the list beside this file."""

from __future__ import annotations

import importlib
from pathlib import Path

PACKAGES = (
    "backbones",
    "cli",
    "inference",
    "layers",
    "losses",
    "metrics",
    "models",
    "ops",
    "report",
    "runs",
    "workflows",
)
LISTED = Path(__file__).with_name("public_names.txt")


def exported() -> set[str]:
    """Give every name that a package exports, with its package."""
    modules = (importlib.import_module(f"denseg.{package}") for package in PACKAGES)
    return {f"{module.__name__}.{name}" for module in modules for name in module.__all__}


def test_public_names_are_those_listed() -> None:
    listed = LISTED.read_text(encoding="utf-8").split()
    assert listed == sorted(listed)
    assert set(listed) - exported() == set(), (
        "gone: put them back, or take them from public_names.txt with a changelog line"
    )
    assert exported() - set(listed) == set(), "new: add them to public_names.txt"


def test_the_contract_of_other_peoples_code() -> None:
    """What the documentation promises by import path."""
    promised = {
        "denseg.models": "create_model MODELS load_weights load_checkpoint save_checkpoint",
        "denseg.inference": "Predictor plan_tiles dense_crf CRFasRNN",
        "denseg.metrics": "ConfusionMatrix",
        "denseg.losses": "cross_entropy_loss dice_loss",
        "denseg.layers": "ASPP SeparableConv",
        "denseg.ops": "resize average_pool_pyramid max_pool_pyramid",
        "denseg.workflows": "Segmenter",
    }
    names = {f"{package}.{name}" for package, listed in promised.items() for name in listed.split()}
    assert names - exported() == set()
