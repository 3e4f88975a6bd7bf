# SPDX-License-Identifier: Apache-2.0
"""What a model gives for what it costs: points with their intervals, and those that no other beats in both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from denseg.report.charts import Axis, Tick
from denseg.report.numbers import axis_ticks, log_ticks, score, tick_label

__all__ = ["Dot", "Scatter", "pareto_front", "scatter"]

_LATE = 70  # percent of the axis, from which on a label stands left of its dot


@dataclass(frozen=True)
class Dot:
    """One model: place in percent, ends of its interval, whether it lies on the front, and what it says."""

    name: str
    x: float
    y: float
    low: float
    high: float
    front: bool
    words: str

    @property
    def late(self) -> bool:
        """Whether the name stands on the left."""
        return self.x > _LATE


@dataclass(frozen=True)
class Scatter:
    """A picture of score against cost."""

    key: str
    title: str
    x: Axis
    y: Axis
    dots: tuple[Dot, ...]
    path: str
    summary: str

    @property
    def widest(self) -> str:
        """The longest label of the vertical axis, which decides how much room it takes."""
        return max((tick.label for tick in self.y.ticks), key=len)


def pareto_front(points: Sequence[tuple[float, float]]) -> tuple[bool, ...]:
    """Say of each point whether no other costs at most as much and scores at least as much, one of both better.

    Args:
        points: Cost and score of each.

    Returns:
        One answer per point.
    """
    return tuple(
        not any(c <= cost and s >= value and (c < cost or s > value) for c, s in points) for cost, value in points
    )


def scatter(
    key: str,
    title: str,
    points: Sequence[tuple[str, float | None, float, float, float]],
    *,
    write: Callable[[float], str],
    unit: str,
) -> Scatter | None:
    """Lay out a picture of mIoU against a cost, on a logarithmic axis of the cost.

    Args:
        key: Name for element ids.
        title: Heading.
        points: Name, cost, score, and low and high end of the score's interval; without a cost it is left out.
        write: Writes a cost.
        unit: Title of the horizontal axis.

    Returns:
        The picture; ``None`` with fewer than two points.
    """
    known = [(name, cost, value, low, high) for name, cost, value, low, high in points if cost is not None and cost > 0]
    if len(known) < 2:
        return None
    costs = [cost for _, cost, *_ in known]
    ticks = log_ticks(min(costs) / 1.1, max(costs) * 1.1)
    x = Axis(unit, ticks[0], ticks[-1], (), log=True)
    x = Axis(unit, x.low, x.high, tuple(Tick(x.place(at), write(at)) for at in ticks), log=True)
    ends = [end for _, _, _, low, high in known for end in (low, high)]
    rows = axis_ticks(min(ends), max(ends), 6)
    step = rows[1] - rows[0]
    y = Axis("mIoU", rows[0], rows[-1], ())
    y = Axis("mIoU", rows[0], rows[-1], tuple(Tick(y.place(at), tick_label(at, step)) for at in rows))
    front = pareto_front([(cost, value) for _, cost, value, *_ in known])
    dots = tuple(
        Dot(
            name,
            x.place(cost),
            y.place(value),
            y.place(low),
            y.place(high),
            best,
            f"{name}: mIoU {score(value)} ({score(low)} to {score(high)}), {write(cost)}",
        )
        for (name, cost, value, low, high), best in zip(known, front, strict=True)
    )
    stairs = sorted((dot.x, dot.y) for dot in dots if dot.front)
    path = "".join(
        f"M{at:.4g} {100 - height:.4g}" if not index else f"H{at:.4g}V{100 - height:.4g}"
        for index, (at, height) in enumerate(stairs)
    )
    named = ", ".join(dot.name for dot in sorted(dots, key=lambda dot: dot.x) if dot.front)
    return Scatter(key, title, x, y, dots, path, f"No other is both better and cheaper than {named}")
