# SPDX-License-Identifier: Apache-2.0
"""The attention family's kernels against their usual forms: ``python -m benchmarks.kernels [NAME…] --store``.

``--store`` writes ``benchmarks/results/kernels.*``. The usual forms are written here from the papers' formulas, as most
programs write them: torch's own pooling and cosine similarity window by window, the whole matrix of weights for
attention.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import RESULTS, commit, machine
from benchmarks.measured import Measured
from denseg.layers import CrissCrossAttention, LocationAwareAttention, NonLocal, PositionAttention
from denseg.layers.hybrid_distance_relation import hybrid_distance_relation

__all__ = ["CASES", "Comparison", "KernelCase", "main"]

WINDOWS = (3, 5, 7, 9, 11, 15, 19)
MIB = 2**20


@dataclass(frozen=True)
class KernelCase:
    """One comparison; the two sides are named in ``FORMS``.

    Attributes:
        name: What is compared.
        ours: Our form.
        peer: The usual form.
        channels: Of the map.
        side: Of the map, in positions.
        backward: Forward and backward, or forward alone.
        faster: How many times less time we promise; ``None``: told only.
        lighter: How many times less memory we promise.
        within: Bytes that ours must stay within.
    """

    name: str
    ours: str
    peer: str
    channels: int
    side: int
    backward: bool
    faster: float | None = None
    lighter: float | None = None
    within: int | None = None


@dataclass(frozen=True)
class Comparison:
    """What a case gave: least seconds of processor time, bytes of the first run.

    Attributes:
        case: The case.
        seconds: Ours and the peer's.
        bytes: Ours and the peer's.
        difference: Largest difference of the two results, over the largest value.
        rounds: Runs of each side.
    """

    case: KernelCase
    seconds: tuple[float, float]
    bytes: tuple[int, int]
    difference: float
    rounds: int

    @property
    def faster(self) -> float:
        """The peer's time over ours."""
        return self.seconds[1] / self.seconds[0]

    @property
    def lighter(self) -> float:
        """The peer's memory over ours."""
        return self.bytes[1] / max(self.bytes[0], 1)

    @property
    def reached(self) -> bool:
        """Whether everything promised is kept."""
        case = self.case
        return (
            (case.faster is None or self.faster >= case.faster)
            and (case.lighter is None or self.lighter >= case.lighter)
            and (case.within is None or self.bytes[0] <= case.within)
        )


class UsualRelation(nn.Module):
    """Pool every window with torch's pooling, compare with torch's cosine similarity."""

    def forward(self, x: Tensor) -> Tensor:
        """Give ``(B, 14, h, w)``."""
        maps = [
            F.cosine_similarity(F.avg_pool2d(x, k, stride=1, padding=k // 2, count_include_pad=False), x, dim=1)
            for k in WINDOWS
        ]
        maps += [F.cosine_similarity(F.max_pool2d(x, k, stride=1, padding=k // 2), x, dim=1) for k in WINDOWS]
        return torch.stack(maps, dim=1)


class Relation(nn.Module):
    """Ours."""

    def forward(self, x: Tensor) -> Tensor:
        """Give ``(B, 14, h, w)``."""
        return hybrid_distance_relation(x, windows=WINDOWS)


class UsualPositionAttention(PositionAttention):
    """The same weights, with the whole matrix."""

    def forward(self, features: Tensor) -> Tensor:
        """Give ``(B, C, h, w)``."""
        query = self.query(features).flatten(2).transpose(1, 2)  # (B, N, D)
        weights = torch.softmax(query @ self.key(features).flatten(2), dim=-1)  # (B, N, N)
        context = self.value(features).flatten(2) @ weights.transpose(1, 2)  # (B, C, N)
        return features + self.gamma * context.view_as(features)


class UsualNonLocal(NonLocal):
    """The same weights, with the whole matrix."""

    def _gather(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scale = query.shape[2] ** -0.5
        return torch.softmax(scale * query @ key.transpose(1, 2), dim=-1) @ value


class UsualCrissCross(CrissCrossAttention):
    """The same weights, as dense attention with a mask."""

    def forward(self, features: Tensor) -> Tensor:
        """Give ``(B, C, h, w)``."""
        height, width = features.shape[2:]
        place = torch.arange(height * width)
        row, column = place // width, place % width
        seen = (row[:, None] == row) | (column[:, None] == column)
        for _ in range(self.recurrence):
            scores = self.query(features).flatten(2).transpose(1, 2) @ self.key(features).flatten(2)  # (B, N, N)
            weights = torch.softmax(scores.masked_fill(~seen, -torch.inf), dim=-1)
            context = self.value(features).flatten(2) @ weights.transpose(1, 2)
            features = features + self.gamma * context.view_as(features)
        return features


def _with_gamma(layer: nn.Module) -> nn.Module:
    for name, parameter in layer.named_parameters():
        if name in {"gamma", "norm.weight"}:
            nn.init.constant_(parameter, 0.5)  # at 0 the layers would be the identity
    return layer


FORMS: dict[str, Callable[[int], nn.Module]] = {
    "relation": lambda channels: Relation(),
    "usual relation": lambda channels: UsualRelation(),
    "location-aware": lambda channels: LocationAwareAttention(channels).eval(),
    "position": lambda channels: _with_gamma(PositionAttention(channels)),
    "usual position": lambda channels: _with_gamma(UsualPositionAttention(channels)),
    "non-local": lambda channels: _with_gamma(NonLocal(channels)).eval(),
    "usual non-local": lambda channels: _with_gamma(UsualNonLocal(channels)).eval(),
    "criss-cross": lambda channels: _with_gamma(CrissCrossAttention(channels)),
    "usual criss-cross": lambda channels: _with_gamma(UsualCrissCross(channels)),
}

CASES = (
    KernelCase("HDR, 14 relations", "relation", "usual relation", 128, 65, False, faster=8),
    KernelCase("HDR, 14 relations", "relation", "usual relation", 128, 65, True, faster=7),
    KernelCase("HDR, 14 relations", "relation", "usual relation", 128, 129, False),
    KernelCase("HDR, 14 relations", "relation", "usual relation", 128, 129, True),
    KernelCase(
        "LAA against position attention", "location-aware", "usual position", 512, 129, False, faster=10, lighter=6
    ),
    KernelCase("LAA against position attention", "location-aware", "usual position", 512, 129, True),
    KernelCase("position attention", "position", "usual position", 512, 65, True),
    KernelCase("position attention", "position", "usual position", 512, 129, True, within=700 * 10**6),
    KernelCase("non-local", "non-local", "usual non-local", 512, 129, True, within=700 * 10**6),
    KernelCase("criss-cross, twice", "criss-cross", "usual criss-cross", 512, 65, False),
    KernelCase("criss-cross, twice", "criss-cross", "usual criss-cross", 512, 65, True),
)


def make_step(form: str, channels: int, side: int, backward: bool) -> Callable[[], object]:
    """Make one step of a form; its result is the output."""
    torch.manual_seed(0)
    layer = FORMS[form](channels)
    x = torch.randn(1, channels, side, side, requires_grad=backward)

    def step() -> object:
        if not backward:
            with torch.no_grad():
                return layer(x)
        x.grad = None
        layer.zero_grad()
        layer(x).square().sum().backward()
        return None

    return step


def compare(case: KernelCase, *, rounds: int) -> Comparison:
    """Measure a case, the two sides in turn.

    Args:
        case: What to measure.
        rounds: Runs of each side.

    Returns:
        The comparison.
    """
    shape = (case.channels, case.side, case.backward)
    found: tuple[list[tuple[float, int]], list[tuple[float, int]]] = ([], [])
    with Measured(make_step, case.ours, *shape) as ours, Measured(make_step, case.peer, *shape) as peer:
        for _ in range(rounds):
            found[0].append(ours.run())
            found[1].append(peer.run())
    seconds = [min(time for time, _ in side) for side in found]
    grown = [side[0][1] for side in found]  # of the first run: later ones find what the allocator kept
    return Comparison(case, (seconds[0], seconds[1]), (grown[0], grown[1]), _difference(case), len(found[0]))


@torch.no_grad()
def _difference(case: KernelCase) -> float:
    """Largest relative difference of the two forms with the same weights on a smaller map; NaN for unlike layers."""
    if case.peer != f"usual {case.ours}":
        return float("nan")
    torch.manual_seed(0)
    ours, peer = FORMS[case.ours](32), FORMS[case.peer](32)
    peer.load_state_dict(ours.state_dict())
    x = torch.randn(1, 32, 33, 37)
    first, second = ours(x), peer(x)
    return float((first - second).abs().max() / second.abs().max())


def write(comparisons: Sequence[Comparison], folder: Path = RESULTS) -> tuple[Path, Path]:
    """Write results as JSON and as a Markdown table; what an earlier call wrote about other cases stays.

    Args:
        comparisons: What was measured.
        folder: Where.

    Returns:
        The two files.
    """
    facts, version = machine(), commit()
    rows = {
        _key(asdict(each.case)): asdict(each)
        | {"faster": each.faster, "lighter": each.lighter, "reached": each.reached, "commit": version}
        | {"difference": None if math.isnan(each.difference) else each.difference}
        for each in comparisons
    }
    paths = folder / "kernels.json", folder / "kernels.md"
    if paths[0].is_file():
        stored = json.loads(paths[0].read_text(encoding="utf-8"))["results"]
        rows = {_key(row["case"]): row for row in stored} | rows
    order = [_key(asdict(case)) for case in CASES]
    kept = sorted((row for key, row in rows.items() if key in order), key=lambda row: order.index(_key(row["case"])))
    document = {
        "title": "Kernels of the attention family",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": facts,
        "results": kept,
    }
    lines = [
        "# Kernels of the attention family",
        "",
        "One map, one thread, float32; the usual forms pool window by window, or hold the whole matrix of weights. "
        "Least processor time of several runs in separate processes, so that other programs' turns are not counted, "
        "and the growth of the process in its first run.",
        "",
        f"{document['date']}, commit {', '.join(sorted({row['commit'] for row in kept}))}; {facts['processor']} "
        f"({', '.join(facts['extensions'])}), torch {facts['torch']}, load {facts['load_before']}.",
        "",
        "| kernel | map | pass | ours | usual | faster | ours | usual | lighter | difference | promised | |",
        "| --- |" + " --- |" * 11,
        *(_row(row) for row in kept),
        "",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    paths[0].write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    paths[1].write_text("\n".join(lines), encoding="utf-8")
    return paths


def _key(case: dict[str, Any]) -> tuple[str, int, bool]:
    return case["name"], case["side"], case["backward"]


def _row(row: dict[str, Any]) -> str:
    case = row["case"]
    promised = [f"{case['faster']:g}x faster"] if case["faster"] else []
    promised += [f"{case['lighter']:g}x lighter"] if case["lighter"] else []
    promised += [f"within {case['within'] / 1e6:.0f} MB"] if case["within"] else []
    mark = "" if not promised else "kept" if row["reached"] else "**missed**"
    unlike = "" if row["difference"] is None else f"{row['difference']:.0e}"
    passes, size = "f + b" if case["backward"] else "f", f"{case['channels']}x{case['side']}x{case['side']}"
    return (
        f"| {case['name']} | {size} | {passes} | "
        f"{1000 * row['seconds'][0]:.0f} ms | {1000 * row['seconds'][1]:.0f} ms | {row['faster']:.1f} | "
        f"{row['bytes'][0] / MIB:.0f} MiB | {row['bytes'][1] / MIB:.0f} MiB | {row['lighter']:.1f} | "
        f"{unlike} | {', '.join(promised)} | {mark} |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line names.

    Args:
        arguments: Of the command line; the process's own where ``None``.

    Returns:
        0 where everything promised is kept, else 1.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of names of cases; all where none is given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--largest", type=int, default=10**6, help="leave out larger maps")
    parser.add_argument("--smallest", type=int, default=0, help="leave out smaller maps")
    parser.add_argument("--store", action="store_true", help="write benchmarks/results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    chosen = [
        case
        for case in CASES
        if options.smallest <= case.side <= options.largest
        and (not options.names or case.name.startswith(tuple(options.names)))
    ]
    comparisons = []
    for case in chosen:
        each = compare(case, rounds=-(-options.rounds // 5) if case.side > 100 else options.rounds)
        comparisons.append(each)
        print(
            f"{case.name} {case.side} {'f+b' if case.backward else 'f'}: {each.seconds[0]:.3f} s against "
            f"{each.seconds[1]:.3f} s, {each.faster:.1f}x; {each.bytes[0] / MIB:.0f} MiB against "
            f"{each.bytes[1] / MIB:.0f} MiB, {each.lighter:.1f}x",
            flush=True,
        )
    for path in write(comparisons) if options.store else ():
        print(path)
    return 0 if all(each.reached for each in comparisons) else 1


if __name__ == "__main__":
    sys.exit(main())
