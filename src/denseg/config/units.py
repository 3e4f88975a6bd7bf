# SPDX-License-Identifier: Apache-2.0
"""Amounts with a unit, as people write them."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Budget", "parse_budget"]

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")


class Budget(NamedTuple):
    """How long a training may take.

    Attributes:
        seconds: The time.
        clock: ``wall``, what a clock on the wall shows, or ``cpu``, the time of all processors together.
    """

    seconds: float
    clock: str = "wall"


def parse_budget(text: str) -> Budget:
    """Read ``30m``, ``1h30m``, ``90s`` or, of processor time, ``40m cpu``.

    Args:
        text: What a person wrote.

    Returns:
        The budget.

    Raises:
        ValueError: It is no such time, or nothing.
    """
    value = text.strip().lower()
    times, _, clock = value.partition(" ") if value.endswith(" cpu") else (value, "", "wall")
    parts = _PART.findall(times)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not seconds or "".join("".join(part) for part in parts) != times.replace(" ", ""):
        raise ValueError(f"a budget is a time such as 30m, 1h30m or 90s (`40m cpu`: of all processors); got {text!r}")
    return Budget(seconds, clock)
