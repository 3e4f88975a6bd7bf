# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from denseg.errors import OutputError
from denseg.training.guards import (
    FiniteGuard,
    NotFiniteError,
    StepFacts,
    check_finite_model,
    check_free_space,
    explain_memory,
)

FACTS = StepFacts(3, 1, 0.1, ())


def test_a_finite_loss_passes_and_is_told() -> None:
    guard = FiniteGuard()
    assert guard.push(torch.tensor(0.5), FACTS) == 0.5
    guard.flush()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_stops(value: float) -> None:
    with pytest.raises(NotFiniteError) as caught:
        FiniteGuard().push(torch.tensor(value), FACTS)
    assert str(caught.value) == f"the loss became {value} at step 3"
    assert caught.value.facts is FACTS


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_loss_is_looked_at_one_step_later() -> None:
    guard = FiniteGuard()
    assert guard.push(torch.tensor(0.5, device="cuda"), FACTS) is None
    assert guard.push(torch.tensor(float("nan"), device="cuda"), FACTS) == 0.5
    with pytest.raises(NotFiniteError):
        guard.flush()


def test_broken_weights_and_statistics_are_found() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    assert check_finite_model(model) == ""
    statistics = model[1].running_var
    assert isinstance(statistics, torch.Tensor)
    statistics.fill_(float("inf"))
    assert check_finite_model(model) == "1.running_var"
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    assert check_finite_model(model) == "0.weight"
    assert check_finite_model(nn.ReLU()) == ""


def test_large_weights_whose_sum_overflows_are_finite() -> None:
    model = nn.Conv2d(1, 2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([3e38, 3e38]).reshape(2, 1, 1, 1))
    assert check_finite_model(model) == ""


def test_too_small_a_disk_is_told_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage: Any = shutil._ntuple_diskusage(0, 0, 2_500_000)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    check_free_space(tmp_path, 2_000_000)
    with pytest.raises(OutputError) as caught:
        check_free_space(tmp_path, 3_000_000_000)
    assert str(caught.value) == (
        f"no space for checkpoints in {tmp_path}: the run needs about 3 GB, 2 MB are free; "
        "free some or choose another folder with --out"
    )


def test_out_of_memory_says_what_fits() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory")
    assert str(explain_memory(error, batch_size=5, accumulate=2, size=(512, 256))) == (
        "the GPU has too little memory for batches of 5 samples of 512x256; --set train.batch_size=2 --set "
        "train.accumulate=6 takes about half and steps alike"
    )
    error_cpu = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    assert str(explain_memory(error_cpu, batch_size=1, accumulate=1, size=(9, 9))) == (
        "this machine has too little memory for batches of 1 samples of 9x9; lower train.crop, choose a smaller model, "
        "or use --set train.precision=bf16"
    )
    assert explain_memory(RuntimeError("something else"), batch_size=1, accumulate=1, size=(9, 9)) is None
