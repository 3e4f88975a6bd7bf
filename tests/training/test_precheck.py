# SPDX-License-Identifier: Apache-2.0
"""A misspelt name is told before the data are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from denseg.config import load_config
from denseg.errors import CheckpointError, UnknownNameError, UnsupportedError, UsageError
from denseg.models import MODELS
from denseg.training.precheck import check_wishes


@pytest.mark.parametrize("name", sorted(MODELS))
def test_what_every_model_offers_passes(name: str) -> None:
    check_wishes(load_config(None, [f"model.name={name}"]))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (["model.name=unett"], UnknownNameError, "no model named 'unett'. Did you mean 'unet'?"),
        (["model.backbone=resnet5o"], UnknownNameError, "no backbone named 'resnet5o'. Did you mean "),
        (["model.widht=2"], UsageError, "has no option 'widht'. Did you mean 'width'?"),
        (["train.loss={dise: 1}"], UnknownNameError, "no loss named 'dise'. Did you mean 'dice'?"),
        (["device=tpu"], UsageError, "device is auto, cpu, cuda, cuda:N or mps; got 'tpu'"),
        (["init=nowhere"], CheckpointError, "no checkpoint nowhere: there is no such file or folder"),
        (["model.name=danet", "model.form=paper"], UnsupportedError, "model 'danet' has no paper form; "),
        (["stages=[{name: a, train: {loss: {dise: 1}, epochs: 1}}]"], UnknownNameError, "no loss named 'dise'."),
    ],
)
def test_each_mistake_is_told(
    settings: list[str], error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as caught:
        check_wishes(load_config(None, settings))
    assert message in str(caught.value)


def test_a_stage_at_another_stride_is_built_too() -> None:
    wrong = [
        "model.name=deeplab_v3_plus",
        "model.backbone=vit_tiny_patch16_224",
        "stages=[{name: a, output_stride: 8}]",
    ]
    with pytest.raises(UnsupportedError):
        check_wishes(load_config(None, wrong))
