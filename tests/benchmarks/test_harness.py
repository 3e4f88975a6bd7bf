# SPDX-License-Identifier: Apache-2.0
"""The benchmark harness, on a clock that the test turns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.harness import Case, Result, interleave, write_results


class Clock:
    """A clock that stands still but for what a step takes."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def step(self, name: str, seconds: list[float]) -> object:
        def run() -> None:
            self.log.append(name)
            self.now += seconds[0] if len(seconds) == 1 else seconds.pop(0)

        return run


def test_ratio_is_of_neighbours_in_time() -> None:
    """A machine that slows down over the run slows both: every round's ratio stays."""
    clock = Clock()
    slow = [1.0, 1.0] + [1.0 + n for n in range(8)]
    case = Case("c", clock.step("ours", [value * 0.5 for value in slow]), clock.step("peer", list(slow)))  # type: ignore[arg-type]
    result = interleave(case, rounds=8, warmup=2, clock=clock)
    assert result.ratio == pytest.approx(0.5)
    assert result.quartiles == (pytest.approx(0.5), pytest.approx(0.5))
    assert result.peer == pytest.approx(4.5)
    assert result.ours == pytest.approx(2.25)


def test_order_alternates() -> None:
    clock = Clock()
    case = Case("c", clock.step("ours", [1.0]), clock.step("peer", [2.0]))  # type: ignore[arg-type]
    result = interleave(case, rounds=4, warmup=1, clock=clock)
    assert clock.log == ["ours", "peer", "ours", "peer", "peer", "ours", "ours", "peer", "peer", "ours"]
    assert (result.ours, result.peer, result.ratio, result.rounds) == (1.0, 2.0, 0.5, 4)
    assert result.null == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("goal", "reached"), [(None, True), (0.5, True), (0.49, False)])
def test_goal(goal: float | None, reached: bool) -> None:
    clock = Clock()
    case = Case("c", clock.step("ours", [1.0]), clock.step("peer", [2.0]), goal)  # type: ignore[arg-type]
    assert interleave(case, rounds=4, clock=clock).reached is reached


def test_results_are_written(tmp_path: Path) -> None:
    result = Result("case", 0.5, 1.0, 0.5, (0.4, 0.6), (1.0, 0.9, 1.1), 15, 0.95, "a note")
    json_path, markdown_path = write_results(
        "x", "Title", [result], about="What one step is.", peer="peer 1.0", folder=tmp_path
    )
    document = json.loads(json_path.read_text(encoding="utf-8"))
    assert document["results"][0]["ratio"] == 0.5
    assert document["results"][0]["reached"] is True
    assert document["peer"] == "peer 1.0"
    assert {"processor", "cores", "threads", "torch", "python", "load_before"} <= document["machine"].keys()
    text = markdown_path.read_text(encoding="utf-8")
    assert "| case | 500 ms | 1000 ms | 0.500 | 0.400-0.600 | 1.000 (0.900-1.100) | <= 0.95 | reached |" in text
    assert "a note" in text
