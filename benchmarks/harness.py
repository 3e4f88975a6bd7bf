# SPDX-License-Identifier: Apache-2.0
"""Times two programs interleaved in one process, so that what else the machine does falls on both alike.

Each round runs both once, in alternating order; the ratio of a round compares two neighbours in time. The result is the
median of the ratios with its quartiles. ``null`` is the same figure for the peer against itself: how much of a ratio
this machine makes up.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["Case", "Result", "commit", "interleave", "machine", "write_results"]

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: What is timed, for example ``U-Net / ResNet-34, float32``.
        ours: One step of denseg.
        peer: The same step of the peer.
        goal: Largest ratio that we promise; ``None`` for a figure that is only told.
        note: What a reader must know: memory format, parameters.
    """

    name: str
    ours: Callable[[], object]
    peer: Callable[[], object]
    goal: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Result:
    """What one case gave; times in seconds.

    Attributes:
        name: The case.
        ours: Median time of our step.
        peer: Median time of the peer's step.
        ratio: Median over rounds of our time through the peer's.
        quartiles: First and third quartile of the rounds' ratios.
        null: Median and quartiles of the peer's odd rounds through its even ones: the noise.
        rounds: How many rounds.
        goal: See ``Case``.
        note: See ``Case``.
    """

    name: str
    ours: float
    peer: float
    ratio: float
    quartiles: tuple[float, float]
    null: tuple[float, float, float]
    rounds: int
    goal: float | None
    note: str

    @property
    def reached(self) -> bool:
        """Whether the goal is met; true where there is none."""
        return self.goal is None or self.ratio <= self.goal


def interleave(
    case: Case, *, rounds: int = 15, warmup: int = 2, clock: Callable[[], float] = time.perf_counter
) -> Result:
    """Time a case.

    Args:
        case: What to time.
        rounds: How often each side runs; at least 4.
        warmup: Runs of each side before the clock starts.
        clock: Gives seconds.

    Returns:
        The result.
    """

    def timed(step: Callable[[], object]) -> float:
        start = clock()
        step()
        return clock() - start

    for _ in range(warmup):
        case.ours()
        case.peer()
    ours, peer = [], []
    for number in range(rounds):
        first, second = (case.ours, case.peer) if number % 2 == 0 else (case.peer, case.ours)
        times = timed(first), timed(second)
        ours.append(times[number % 2])
        peer.append(times[1 - number % 2])
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    pairs = [a / b for a, b in zip(peer[1::2], peer[::2], strict=False)]
    low, _, high = statistics.quantiles(ratios, n=4)
    noise = statistics.quantiles(pairs, n=4)
    return Result(
        name=case.name,
        ours=statistics.median(ours),
        peer=statistics.median(peer),
        ratio=statistics.median(ratios),
        quartiles=(low, high),
        null=(noise[1], noise[0], noise[2]),
        rounds=rounds,
        goal=case.goal,
        note=case.note,
    )


def machine() -> dict[str, Any]:
    """Describe the machine and the versions that a time depends on.

    Returns:
        JSON values.
    """
    import torch

    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    flags = set(fields.get("flags", "").split())
    return {
        "processor": fields.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "extensions": sorted(flags & {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16"}),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def commit() -> str:
    """Name the commit that is timed.

    Returns:
        Its first 12 digits, with ``+`` where the package has changes that are not committed; empty outside a checkout.
    """
    root = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        command = ["git", *arguments]  # fixed words, no shell
        found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)  # noqa: S603
        return found.stdout.strip()

    return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", "src") else "")


def write_results(
    name: str, title: str, results: Sequence[Result], *, about: str, peer: str, folder: Path = RESULTS
) -> tuple[Path, Path]:
    """Write results as JSON and as a Markdown table.

    Args:
        name: File name without ending.
        title: Heading of the table.
        results: What was measured.
        about: What one step is.
        peer: Name and version of the peer.
        folder: Where.

    Returns:
        The two files.
    """
    facts = machine()
    document = {
        "title": title,
        "about": about,
        "peer": peer,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit(),
        "machine": facts,
        "results": [asdict(result) | {"reached": result.reached} for result in results],
    }
    folder.mkdir(parents=True, exist_ok=True)
    json_path, markdown_path = folder / f"{name}.json", folder / f"{name}.md"
    json_path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    where = (
        f"{facts['processor']}, {facts['cores']} cores ({', '.join(facts['extensions'])}), {facts['threads']} threads, "
        f"torch {facts['torch']}, Python {facts['python']}, load before {facts['load_before']}"
    )
    lines = [
        f"# {title}",
        "",
        about,
        "",
        f"{document['date']}, commit {document['commit']}, against {peer}; {where}.",
        "",
        *_table(results),
        "",
    ]
    markdown_path.write_text("\n".join(lines), encoding="utf-8")
    return json_path, markdown_path


def _table(results: Iterable[Result]) -> list[str]:
    lines = ["| case | denseg | peer | ratio | quartiles | peer against itself | goal | |", "| --- |" + " --- |" * 7]
    for result in results:
        goal = "" if result.goal is None else f"<= {result.goal:.2f}"
        mark = "" if result.goal is None else "reached" if result.reached else "**missed**"
        noise = f"{result.null[0]:.3f} ({result.null[1]:.3f}-{result.null[2]:.3f})"
        lines.append(
            f"| {result.name} | {1000 * result.ours:.0f} ms | {1000 * result.peer:.0f} ms | {result.ratio:.3f} | "
            f"{result.quartiles[0]:.3f}-{result.quartiles[1]:.3f} | {noise} | {goal} | {mark} |"
        )
        if result.note:
            lines.append(f"| _{result.note}_ | | | | | | | |")
    return lines
