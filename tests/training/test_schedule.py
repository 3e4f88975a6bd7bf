# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from denseg.config import TrainConfig
from denseg.training.schedule import learning_rate_factor

TOTAL = 50


def factors(**values: object) -> list[float]:
    config = TrainConfig.model_validate(values)
    return [learning_rate_factor(step, TOTAL, config) for step in range(TOTAL)]


def torch_factors(make: object) -> list[float]:
    """The same schedule by torch, as an independent implementation."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)  # type: ignore[operator]
    rates = []
    for _ in range(TOTAL):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_poly_equals_torch() -> None:
    wanted = torch_factors(lambda o: torch.optim.lr_scheduler.PolynomialLR(o, total_iters=TOTAL, power=0.9))
    assert factors(schedule="poly", power=0.9) == pytest.approx(wanted)


def test_cosine_equals_torch() -> None:
    wanted = torch_factors(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=TOTAL))
    assert factors(schedule="cosine") == pytest.approx(wanted, abs=1e-12)


def test_step_equals_torch() -> None:
    wanted = torch_factors(lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=7, gamma=0.3))
    assert factors(schedule="step", step_every=7, step_factor=0.3) == pytest.approx(wanted)


def test_step_without_length_drops_at_thirds() -> None:
    values = factors(schedule="step", step_factor=0.1)
    assert values[16] == 1.0
    assert values[17] == pytest.approx(0.1)
    assert values[34] == pytest.approx(0.01)


def test_constant_is_one() -> None:
    assert factors(schedule="constant") == [1.0] * TOTAL


def test_warmup_rises_evenly_and_then_leaves_the_schedule_alone() -> None:
    plain, warm = factors(schedule="poly"), factors(schedule="poly", warmup=4)
    assert [w / p for w, p in zip(warm, plain, strict=True)] == pytest.approx([0.2, 0.4, 0.6, 0.8] + [1.0] * 46)


def test_the_last_step_still_learns_and_the_end_is_zero() -> None:
    config = TrainConfig()
    assert learning_rate_factor(TOTAL - 1, TOTAL, config) > 0
    assert learning_rate_factor(TOTAL, TOTAL, config) == 0
    assert learning_rate_factor(TOTAL + 5, TOTAL, config) == 0


@pytest.mark.parametrize(("peak_at", "end"), [(0.3, 1e-4), (0.1, 0.01), (0.5, 1e-6)])
def test_one_cycle_equals_torch(peak_at: float, end: float) -> None:
    wanted = torch_factors(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, max_lr=1.0, total_steps=TOTAL + 1, pct_start=peak_at, div_factor=25, final_div_factor=1 / (25 * end)
        )
    )
    config = TrainConfig(schedule="one_cycle", peak_at=peak_at, start_factor=1 / 25, end_factor=end)
    assert [learning_rate_factor(step, TOTAL + 1, config) for step in range(TOTAL)] == pytest.approx(wanted)


@pytest.mark.parametrize("total", [1, 2, 3])
def test_one_cycle_of_few_steps_stays_in_bounds(total: int) -> None:
    config = TrainConfig(schedule="one_cycle", end_factor=0.01)
    assert all(0.01 <= learning_rate_factor(step, total, config) <= 1 for step in range(total + 2))


@pytest.mark.parametrize("schedule", ["poly", "cosine"])
def test_a_schedule_ends_where_it_is_told(schedule: str) -> None:
    plain, raised = factors(schedule=schedule), factors(schedule=schedule, end_factor=0.1)
    assert raised == pytest.approx([0.1 + 0.9 * factor for factor in plain])
    assert learning_rate_factor(TOTAL, TOTAL, TrainConfig(schedule=schedule, end_factor=0.1)) == pytest.approx(0.1)


def test_warmup_rises_from_its_factor() -> None:
    config = {"schedule": "constant", "warmup": 4, "warmup_factor": 0.5}
    assert factors(**config)[:6] == pytest.approx([0.6, 0.7, 0.8, 0.9, 1.0, 1.0])
