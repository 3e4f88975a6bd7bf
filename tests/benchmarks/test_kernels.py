# SPDX-License-Identifier: Apache-2.0
"""The kernel benchmark: both sides compute the same, and what is measured is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks.kernels import CASES, FORMS, Comparison, KernelCase, make_step
from benchmarks.measured import Measured

from benchmarks import kernels


@pytest.mark.parametrize("form", ["relation", "position", "non-local", "criss-cross"])
def test_the_usual_form_computes_the_same(form: str) -> None:
    case = KernelCase("x", form, f"usual {form}", 32, 9, False)
    assert kernels._difference(case) < 1e-4


def test_every_case_names_two_forms() -> None:
    assert {case.ours for case in CASES} | {case.peer for case in CASES} <= FORMS.keys()


def test_unlike_layers_are_not_compared() -> None:
    difference = kernels._difference(next(case for case in CASES if case.ours == "location-aware"))
    assert difference != difference  # not a number


@pytest.mark.parametrize("backward", [False, True])
def test_a_step_runs(backward: bool) -> None:
    result = make_step("location-aware", 8, 5, backward)()
    assert result is None if backward else result.shape == (1, 8, 5, 5)  # type: ignore[attr-defined]


def hold(mebibytes: int) -> Callable[[], object]:
    """Make a step that takes memory and time."""
    return lambda: torch.ones(mebibytes, 2**18).cumsum(dim=1)


def test_memory_is_that_of_the_step() -> None:
    with Measured(hold, 64) as large, Measured(hold, 8) as small:
        for _ in range(2):  # the second run starts from where the first ended
            many, few = large.run(), small.run()
            assert min(many[0], few[0]) > 0
            assert many[1] - few[1] > 60 * 2**20  # of about 100 MiB; what else the process takes varies


def test_promises_and_tables(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.lighter is not None)
    kept = Comparison(case, (0.1, 1.2), (100 * 2**20, 700 * 2**20), float("nan"), 3)
    assert kept.reached
    assert not replace(kept, seconds=(0.1, 0.9)).reached
    assert not replace(kept, bytes=(100, 500)).reached
    assert not replace(kept, case=replace(case, faster=None, lighter=None, within=10**8)).reached
    slow = Comparison(CASES[0], (1.0, 1.0), (1, 1), 1e-6, 3)
    kernels.write([slow], tmp_path)
    json_path, markdown_path = kernels.write([kept], tmp_path)  # the other stays
    text = markdown_path.read_text(encoding="utf-8")
    assert "| 100 ms | 1200 ms | 12.0 | 100 MiB | 700 MiB | 7.0 |  | 10x faster, 6x lighter | kept |" in text
    assert "| 1.0 | 1e-06 | 8x faster | **missed** |" in text
    document = json.loads(json_path.read_text(encoding="utf-8"))
    assert [row["reached"] for row in document["results"]] == [False, True]
    assert document["results"][1]["difference"] is None
