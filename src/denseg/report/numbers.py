# SPDX-License-Identifier: Apache-2.0
"""Numbers as a reader wants them: scores, counts, shares and durations in words, and round axis ticks."""

from __future__ import annotations

import math
from itertools import pairwise

__all__ = ["axis_ticks", "count", "duration", "learning_rate", "log_ticks", "plural", "score", "share", "tick_label"]

ABSENT = "–"  # noqa: RUF001 - an en dash stands for "no value" in tables


def score(value: float | None, digits: int = 3) -> str:
    """Write a score in 0..1; a dash where there is none.

    Args:
        value: The score, or ``None``.
        digits: Digits after the point.

    Returns:
        For example ``0.634``.
    """
    return ABSENT if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def share(value: float | None) -> str:
    """Write a part of a whole as a percentage, with digits where they tell something.

    Args:
        value: The part, 0..1, or ``None``.

    Returns:
        For example ``34%``, ``3.4%`` or ``< 0.1%``; a part that is almost all is never rounded up to 100%.
    """
    if value is None or not math.isfinite(value):
        return ABSENT
    percent = 100 * value
    if percent == 0 or percent == 100:
        return f"{percent:.0f}%"
    if percent < 0.1:
        return "< 0.1%"
    if percent > 99.9:
        return "> 99.9%"
    return f"{percent:.1f}%" if percent < 9.95 or percent > 99 else f"{percent:.0f}%"


def count(value: float) -> str:
    """Write a whole number with thousands apart; millions and more in short form.

    Args:
        value: The number.

    Returns:
        For example ``12,345`` or ``1.7 M``.
    """
    value = round(value)
    for limit, letter in ((10**9, "G"), (10**6, "M")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {letter}"
    return f"{value:,}"


def plural(number: int, one: str, many: str = "") -> str:
    """Write a number with its noun.

    Args:
        number: How many.
        one: The noun for one.
        many: The noun for any other number; ``one`` with an s where it is empty.

    Returns:
        For example ``1 image`` or ``1,200 images``.
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """Write a time span with its two largest units.

    Args:
        seconds: The span.

    Returns:
        For example ``48 s``, ``12 min 5 s``, ``3 h 20 min`` or ``2 d 4 h``.
    """
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    left = round(seconds)
    if left < 60:
        return f"{left} s"
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (name, size), (below, below_size) in pairwise(units):
        if left >= size:
            rest = left % size // below_size
            return f"{left // size} {name}" + (f" {rest} {below}" if rest else "")
    return f"{left} s"


def learning_rate(value: float) -> str:
    """Write a learning rate: as many digits as it needs, powers of ten where it is small.

    Args:
        value: The rate.

    Returns:
        For example ``0.01`` or ``3.2e-5``.
    """
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def axis_ticks(low: float, high: float, wanted: int = 5) -> tuple[float, ...]:
    """Choose round numbers that span a range.

    Args:
        low: Smallest value to be shown.
        high: Largest value to be shown.
        wanted: About how many ticks.

    Returns:
        At least two ticks, a step of 1, 2 or 5 times a power of ten apart; the first is at most ``low`` and the last
        at least ``high``.
    """
    if not math.isfinite(low) or not math.isfinite(high):
        low, high = 0.0, 1.0
    if high - low <= max(abs(low), abs(high), 1e-100) * 1e-9:  # nothing to tell apart in double precision
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / max(wanted - 1, 1)
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return tuple(index * step for index in range(first, last + 1))


def log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Choose 1, 2 and 5 times powers of ten that span a range; only powers where the range is wide.

    Args:
        low: Smallest value to be shown, positive.
        high: Largest value to be shown.

    Returns:
        At least two ticks; the first is at most ``low`` and the last at least ``high``.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1.0, 2.0, 5.0) if last - first <= 3 else (1.0,)
    every = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    start = max((index for index, tick in enumerate(every) if tick <= low * (1 + 1e-9)), default=0)
    end = min((index for index, tick in enumerate(every) if tick >= high * (1 - 1e-9)), default=len(every) - 1)
    return tuple(every[min(start, end - 1) : end + 1] if end else every[:2])


def tick_label(value: float, step: float) -> str:
    """Write one axis tick with the digits its step needs.

    Args:
        value: The tick.
        step: Distance between ticks.

    Returns:
        For example ``0.25``, ``40`` or ``2e-5``.
    """
    if value == 0 or abs(value) < step * 1e-6:
        return "0"
    if abs(step) < 1e-5 * (1 - 1e-9):
        return learning_rate(value)
    digits = max(0, -math.floor(math.log10(abs(step)) + 1e-9))
    return f"{value:,.{digits}f}"
