# SPDX-License-Identifier: Apache-2.0
"""The moving average of the weights: its arithmetic, and its place in a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from denseg.errors import InterruptedRunError
from denseg.models.checkpoint import load_checkpoint
from denseg.models.tensor_file import read_tensors
from denseg.runs import RunFolder
from denseg.training.average import WeightAverage
from denseg.training.interrupt import StopRequest
from denseg.training.state import load_state, take

Fit = Callable[..., Any]


def small_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


def test_it_is_the_weighted_mean_of_what_it_saw() -> None:
    """Written out as a sum: the weight of step s is (1 - d_s) times the decays of all later steps."""
    model = small_network()
    average = WeightAverage(model, decay=0.6)
    seen = [model[0].weight.detach().clone()]
    for step in range(1, 6):
        with torch.no_grad():
            model[0].weight.add_(torch.randn_like(model[0].weight))
        seen.append(model[0].weight.detach().clone())
        average.update(step)
    decays = [0.0, *(min(0.6, (1 + step) / (10 + step)) for step in range(1, 6))]
    wanted = torch.zeros_like(seen[0])
    for step, value in enumerate(seen):
        later = torch.tensor(decays[step + 1 :]).prod()
        wanted += (1 - decays[step]) * later * value
    assert torch.allclose(average.tensors()["0.weight"], wanted, atol=1e-6)


def test_it_is_kept_in_float32_with_the_statistics_of_batch_norm() -> None:
    model = small_network().to(torch.bfloat16)
    tensors = WeightAverage(model, decay=0.9).tensors()
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert "1.running_mean" in tensors
    assert "1.num_batches_tracked" not in tensors


def test_small_changes_are_not_lost_to_rounding() -> None:
    """In bfloat16 a step of a thousandth towards 1.01 would round to nothing."""
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.constant_(model.weight, 1.0)
    average = WeightAverage(model, decay=0.999)
    with torch.no_grad():
        model.weight.fill_(1.0078125)
    for _ in range(1000):
        average.update(10**6)
    assert 1.004 < float(average.tensors()["weight"]) < 1.0078


def test_it_is_applied_inside_the_block_only() -> None:
    model = small_network()
    average = WeightAverage(model, decay=0.5)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with average.applied():
        assert torch.equal(model[0].weight, own["0.weight"] - 1.0)
    assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())


def test_a_run_keeps_both_and_predicts_with_the_average(fit_run: Fit) -> None:
    run = fit_run("train.ema=0.9").run
    loaded = load_state(run)
    assert loaded is not None
    average, own = take(loaded.tensors, "ema"), take(loaded.tensors, "model")
    last = load_checkpoint(run.last_path).model.state_dict()
    assert all(torch.equal(last[name], tensor) for name, tensor in average.items())
    assert any(not torch.equal(own[name], tensor) for name, tensor in average.items())
    plain = load_state(fit_run(name="plain").run)
    assert plain is not None
    assert all(torch.equal(own[name], tensor) for name, tensor in take(plain.tensors, "model").items()), (
        "averaging does not touch training"
    )


class StopAfter(StopRequest):
    """Asks to stop after so many looks."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def __bool__(self) -> bool:
        self.looks -= 1
        return self.looks < 0


@pytest.mark.parametrize("looks", [0, 1, 3, 5, 6])
def test_a_resumed_run_has_the_same_average(fit_run: Fit, looks: int) -> None:
    settings = ("train.ema=0.99", "train.validate_every=2")
    whole = fit_run(*settings, name="whole").run
    with pytest.raises(InterruptedRunError):
        fit_run(*settings, name="cut", stop=StopAfter(looks))
    run = RunFolder(whole.path.parent / "cut")
    fit_run(*settings, run=run, loaded=load_state(run))
    for path in ("state_path", "last_path", "best_path"):
        one, two = (read_tensors(getattr(folder, path))[0] for folder in (whole, run))
        assert one.keys() == two.keys()
        assert [name for name in one if not torch.equal(one[name], two[name])] == [], path


def test_the_next_stage_starts_from_the_average(fit_run: Fit) -> None:
    stages = "stages=[{name: a, train: {ema: 0.9}}, {name: b, train: {learning_rate: 1e-30, weight_decay: 0}}]"
    run = fit_run(stages, "train.freeze_norm=true").run
    loaded = load_state(run)
    assert loaded is not None
    assert not take(loaded.tensors, "ema")
    averaged = load_state(fit_run("train.ema=0.9", "train.freeze_norm=true", name="one").run)
    assert averaged is not None
    wanted = take(averaged.tensors, "ema")
    own = take(loaded.tensors, "model")
    assert all(torch.allclose(own[name], wanted[name], atol=1e-7) for name in wanted)
