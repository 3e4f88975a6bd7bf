# SPDX-License-Identifier: Apache-2.0
"""Geometry of the page's charts. The template draws what is computed here.

Plots live in a box of 100 by 100 that the page stretches; text and dots are placed by percentages beside it, so that
they keep their size and form on every screen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from denseg.report.numbers import axis_ticks, log_ticks, score, share, tick_label

__all__ = ["Axis", "Chart", "Line", "Mark", "Strip", "Tick", "line_chart", "share_chart", "sparkline", "strip"]

Values = Sequence[float | None]

_SHORT_RANGE = 0.1  # of scores; a strip is never spread over less
_WIDE_RANGE = 10  # largest over smallest value, from which on a logarithmic axis shows more
_TABLE_ROWS = 200  # of a table of numbers; metrics.csv has all
_DOTS_UP_TO = 24  # points of a line drawn as dots too: with few epochs the points are the data


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, ``at`` in percent of its length."""

    at: float
    label: str


@dataclass(frozen=True)
class Axis:
    """One axis: what it shows, from where to where, and its ticks."""

    title: str
    low: float
    high: float
    ticks: tuple[Tick, ...]
    log: bool = False

    def place(self, value: float) -> float:
        """Give the place of a value in percent of the axis."""
        if self.log:
            return round(100 * math.log(value / self.low) / math.log(self.high / self.low), 3)
        return round(100 * (value - self.low) / (self.high - self.low), 3)


@dataclass(frozen=True)
class Mark:
    """A point, or a line across the plot, with words beside it; places in percent."""

    label: str
    x: float | None = None
    y: float | None = None


@dataclass(frozen=True)
class Line:
    """One series, as an SVG path in the box and as numbers for the read-out.

    Attributes:
        name: What the legend says.
        tone: Colour slot of the page's palette: ``a``, ``b``, ``c``.
        path: SVG path; gaps where there is no value.
        dots: Places drawn as dots, in percent from left and bottom.
        values: One text per x, empty where there is no value.
    """

    name: str
    tone: str
    path: str
    dots: tuple[tuple[float, float], ...]
    values: tuple[str, ...]


@dataclass(frozen=True)
class Chart:
    """A line chart, ready to be drawn.

    Attributes:
        key: Name for links and element ids.
        title: Heading.
        summary: What it shows in one sentence, for those who do not see it.
        x: Horizontal axis.
        y: Vertical axis.
        lines: The series.
        labels: One text per x, for the read-out and the table of numbers.
        places: Place of each x in percent.
        marks: Points and lines worth a word.
    """

    key: str
    title: str
    summary: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    labels: tuple[str, ...]
    places: tuple[float, ...]
    marks: tuple[Mark, ...] = ()

    @property
    def widest(self) -> str:
        """The longest label of the vertical axis, which decides how much room it takes."""
        return max((tick.label for tick in self.y.ticks), key=len)

    @property
    def readout(self) -> tuple[dict[str, object], ...]:
        """What the page's script reads out of each line."""
        return tuple({"name": line.name, "tone": line.tone, "values": line.values} for line in self.lines)

    @property
    def table(self) -> tuple[int, ...]:
        """Which entries the table of numbers shows: all, or evenly chosen ones of very many, the last always."""
        step = -(-len(self.labels) // _TABLE_ROWS)
        return tuple(sorted({*range(0, len(self.labels), step), len(self.labels) - 1}))


@dataclass(frozen=True)
class Strip:
    """How the scores of single images spread: a column of dots per score bin.

    Attributes:
        axis: Horizontal axis.
        columns: Per bin: left and right edge in percent, height in percent of the fullest bin, how many, its range.
        median: Place of the median in percent.
        median_label: The median in words.
    """

    axis: Axis
    columns: tuple[tuple[float, float, float, int, str], ...]
    median: float
    median_label: str


def line_chart(
    key: str,
    title: str,
    xs: Sequence[float],
    series: Sequence[tuple[str, Values]],
    *,
    write: Callable[[float], str] = score,
    limits: tuple[float | None, float | None] = (None, None),
    log: bool = False,
    marks: Sequence[tuple[str, float | None, float | None]] = (),
) -> Chart | None:
    """Lay out a line chart.

    Args:
        key: Name for links and element ids.
        title: Heading.
        xs: The epoch of each value, ascending.
        series: Name and values of each line; ``None`` leaves a gap.
        write: Turns a value into text for the read-out.
        limits: Values that the vertical axis must reach down and up to; ``None`` leaves it to the data.
        log: Take a logarithmic vertical axis where the values are positive and span a factor of ten.
        marks: Label, x and y (in data units) of what deserves a word; one of x and y may be ``None``.

    Returns:
        The chart, or ``None`` where no line has a value.
    """
    kept = [(name, [_finite(value) for value in values]) for name, values in series]
    kept = [(name, values) for name, values in kept if any(value is not None for value in values)]
    if not kept or not xs:
        return None
    every = [value for _, values in kept for value in values if value is not None]
    every += [mark[2] for mark in marks if mark[2] is not None]
    if log and min(every) > 0 and max(every) > _WIDE_RANGE * min(every):
        y = _log_axis(min(every), max(every))
    else:
        every += [limit for limit in limits if limit is not None]
        y = _axis("", min(every), max(every), 6)
    x = _whole_axis("epoch", xs[0], xs[-1])
    lines = tuple(_line(name, "abc"[index % 3], xs, values, x, y, write) for index, (name, values) in enumerate(kept))
    return Chart(
        key=key,
        title=title,
        summary="; ".join(_in_words(name, xs, values, write) for name, values in kept),
        x=x,
        y=y,
        lines=lines,
        labels=tuple(f"{at:,.0f}" for at in xs),
        places=tuple(x.place(at) for at in xs),
        marks=tuple(
            Mark(label, None if at is None else x.place(at), None if height is None else y.place(height))
            for label, at, height in marks
        ),
    )


def share_chart(
    key: str, title: str, xs: Sequence[float], series: Sequence[tuple[str, Values]], *, x_title: str
) -> Chart | None:
    """Lay out a chart of parts of a whole against parts of a whole.

    Args:
        key: Name for links and element ids.
        title: Heading.
        xs: In 0..1, ascending.
        series: Name and values in 0..1 of each line; ``None`` leaves a gap.
        x_title: What the horizontal axis is.

    Returns:
        The chart, or ``None`` with fewer than two points.
    """
    if len(xs) < 2:
        return None
    every = [value for _, values in series for value in values if value is not None]
    x = _axis(x_title, min(xs), max(xs), 6)
    y = _axis("", 0.0, max(every, default=1.0), 6)
    lines = tuple(_line(name, "abc"[at % 3], xs, values, x, y, share) for at, (name, values) in enumerate(series))
    first, last = series[0][1][0], series[0][1][-1]
    return Chart(
        key=key,
        title=title,
        summary=f"{series[0][0]}: {share(first)} at {share(xs[0])}, {share(last)} at {share(xs[-1])}",
        x=x,
        y=y,
        lines=lines,
        labels=tuple(share(at) for at in xs),
        places=tuple(x.place(at) for at in xs),
    )


def sparkline(values: Values, *, low: float = 0.0, high: float = 1.0) -> str:
    """Draw a series as one small path.

    Args:
        values: The series; ``None`` leaves a gap.
        low: Value at the bottom.
        high: Value at the top.

    Returns:
        An SVG path in a box of 100 by 100; empty with fewer than two values.
    """
    if sum(value is not None for value in values) < 2:
        return ""
    last = max(len(values) - 1, 1)
    points = [
        None if value is None else (100 * index / last, 100 - 100 * (min(max(value, low), high) - low) / (high - low))
        for index, value in enumerate(map(_finite, values))
    ]
    return _path(points)


def strip(values: Sequence[float], *, bins: int = 25) -> Strip | None:
    """Count scores by bin, between round numbers that span them.

    Args:
        values: Scores in 0..1.
        bins: How many bins the range is cut into.

    Returns:
        The strip, or ``None`` without values.
    """
    if not values:
        return None
    pad = max(0.0, _SHORT_RANGE - (max(values) - min(values))) / 2
    axis = _axis("mIoU of the image", max(min(values) - pad, 0.0), min(max(values) + pad, 1.0), 6)
    width = (axis.high - axis.low) / bins
    counts = [0] * bins
    for value in values:
        counts[min(int((value - axis.low) / width + 1e-9), bins - 1)] += 1
    top = max(counts)
    ordered = sorted(values)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    columns = tuple(
        (
            100 * index / bins,
            100 * (index + 1) / bins,
            100 * amount / top,
            amount,
            f"{axis.low + index * width:.3f} to {axis.low + (index + 1) * width:.3f}",
        )
        for index, amount in enumerate(counts)
        if amount
    )
    return Strip(axis, columns, axis.place(middle), score(middle))


def _axis(title: str, low: float, high: float, wanted: int) -> Axis:
    ticks = axis_ticks(low, high, wanted)
    step = ticks[1] - ticks[0]
    low, high = ticks[0], ticks[-1]
    return Axis(
        title, low, high, tuple(Tick(round(100 * (at - low) / (high - low), 3), tick_label(at, step)) for at in ticks)
    )


def _log_axis(low: float, high: float) -> Axis:
    values = log_ticks(low, high)
    axis = Axis("logarithmic scale", values[0], values[-1], (), log=True)
    ticks = tuple(Tick(axis.place(at), tick_label(at, 10 ** math.floor(math.log10(at) + 1e-9))) for at in values)
    return Axis(axis.title, axis.low, axis.high, ticks, log=True)


def _whole_axis(title: str, low: float, high: float) -> Axis:
    """An axis of counted things: it ends where they end, and its ticks are whole numbers."""
    if high <= low:
        return Axis(title, low - 1, low + 1, (Tick(50.0, f"{low:,.0f}"),))
    ticks = [at for at in axis_ticks(low, high, 6) if low <= at <= high and math.isclose(at, round(at), abs_tol=1e-9)]
    if not ticks or ticks[0] - low > 0.12 * (high - low):
        ticks.insert(0, low)
    if high - ticks[-1] > 0.12 * (high - low):
        ticks.append(high)
    return Axis(title, low, high, tuple(Tick(round(100 * (at - low) / (high - low), 3), f"{at:,.0f}") for at in ticks))


def _line(
    name: str, tone: str, xs: Sequence[float], values: Values, x: Axis, y: Axis, write: Callable[[float], str]
) -> Line:
    heights = [None if value is None else y.place(value) for value in values]
    points = [None if height is None else (x.place(at), 100 - height) for at, height in zip(xs, heights, strict=True)]
    alone = len([point for point in points if point is not None]) <= _DOTS_UP_TO
    dots = tuple((point[0], round(100 - point[1], 3)) for point in points if point is not None) if alone else ()
    texts = tuple("" if value is None else write(value) for value in values)
    return Line(name, tone, _path(points), dots, texts)


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    steps = []
    pen_down = False
    for point in points:
        if point is not None:
            steps.append(f"{'L' if pen_down else 'M'}{point[0]:.4g} {point[1]:.4g}")
        pen_down = point is not None
    return "".join(steps)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _in_words(name: str, xs: Sequence[float], values: Values, write: Callable[[float], str]) -> str:
    there = [(at, value) for at, value in zip(xs, values, strict=True) if value is not None]
    (first_at, first), (last_at, last) = there[0], there[-1]
    if len(there) == 1:
        return f"{name}: {write(first)} in epoch {first_at:,.0f}"
    return f"{name}: {write(first)} in epoch {first_at:,.0f}, {write(last)} in epoch {last_at:,.0f}"
