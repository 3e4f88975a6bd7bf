# SPDX-License-Identifier: Apache-2.0
"""Work through an image part by part, in a fixed order, from any part on; pure numpy.

What computes the windows stands behind a protocol: a torch network, or an exported one.

Letters: B batch, C bands, K classes, h and w height and width of a window or part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from denseg.inference.runtime import Blend, Read, SeamReport, TilePlan, run_plan
from denseg.inference.strategy import Block, Strategy, TileOptions

__all__ = ["Computer", "Result", "collect_blocks", "compute_blocks", "count_blocks"]

Array = npt.NDArray[Any]
Result = Literal["labels", "probabilities"]


class Computer(Protocol):
    """What computes windows.

    Attributes:
        num_classes: K.
        label_type: Of labels.
        options: What was said about tiles.
        fill: What stands outside the image in a window.
    """

    num_classes: int
    options: TileOptions
    fill: float

    @property
    def label_type(self) -> npt.DTypeLike:
        """Type of labels."""
        ...

    def compute_labels(self, windows: Array) -> Array:
        """From ``(B, C, h, w)`` to ``(B, h, w)``."""
        ...

    def compute_probabilities(self, windows: Array) -> Array:
        """From ``(B, C, h, w)`` to ``(B, K, h, w)``."""
        ...


def collect_blocks(
    computer: Computer, read: Read, strategy: Strategy, result: Result, *, blocks: Iterable[Block] | None = None
) -> Array:
    """Compute an image into one array.

    Args:
        computer: The model.
        read: Called with ``(top, left, height, width)`` inside the image; gives ``(C, height, width)`` float32.
        strategy: How.
        result: ``labels`` or ``probabilities``.
        blocks: The parts, where they come from elsewhere.

    Returns:
        ``(H, W)`` or ``(K, H, W)``.
    """
    size = strategy.plan.image
    whole: Array = (
        np.empty(size, computer.label_type)
        if result == "labels"
        else np.empty((computer.num_classes, *size), np.float32)
    )
    for block in compute_blocks(computer, read, strategy, result=result) if blocks is None else blocks:
        rows, columns = block.values.shape[-2:]
        whole[..., block.top : block.top + rows, block.left : block.left + columns] = block.values
    return whole


def compute_blocks(
    computer: Computer,
    read: Read,
    strategy: Strategy,
    *,
    result: Result = "labels",
    start: int = 0,
    seams: SeamReport | None = None,
) -> Iterator[Block]:
    """Compute an image part by part.

    Args:
        computer: The model.
        read: Called with ``(top, left, height, width)`` inside the image; gives ``(C, height, width)`` float32.
        strategy: How.
        result: ``labels`` or ``probabilities``.
        start: Parts that are there already; the others come out as if they had not been.
        seams: Filled with what overlapping windows disagree about (``blend`` only).

    Yields:
        Parts that together cover the image once; always the same ones in the same order.
    """
    plan = strategy.plan
    if strategy.mode == "blend":
        for number, panel in enumerate(_panels(computer, plan)):
            first = max(0, start - number * plan.rows)
            if first < plan.rows:
                yield from _blended(computer, read, plan, panel, first, result, seams)
        return
    compute = computer.compute_labels if result == "labels" else computer.compute_probabilities
    for tile, values in run_plan(replace(plan, tiles=plan.tiles[start:]), read, compute, fill=computer.fill):
        yield Block(tile.core_top, tile.core_left, tile.crop(values))


def count_blocks(computer: Computer, strategy: Strategy) -> int:
    """Say how many parts :func:`compute_blocks` gives.

    Args:
        computer: The model.
        strategy: How.

    Returns:
        The number.
    """
    plan = strategy.plan
    return plan.rows * len(_panels(computer, plan)) if strategy.mode == "blend" else len(plan)


def _panels(computer: Computer, plan: TilePlan) -> list[range]:
    """Divide the columns of tiles so that the band of a panel's probabilities takes half of the memory at most."""
    column = 4 * computer.num_classes * plan.window[0] * plan.window[1]  # bytes of one column of tiles
    wide = max(1, int(computer.options.memory / 2 / column))
    return [range(first, min(first + wide, plan.columns)) for first in range(0, plan.columns, wide)]


def _blended(
    computer: Computer, read: Read, plan: TilePlan, panel: range, first: int, result: Result, seams: SeamReport | None
) -> Iterator[Block]:
    """Blend the columns of a panel from one row of tiles on."""
    left = plan[panel[0]].core_left
    right = plan[panel[-1]].core_left + plan[panel[-1]].core_width
    top = plan[first * plan.columns].top
    columns = [i for i in range(plan.columns) if plan[i].left < right and plan[i].left + plan[i].width > left]
    rows = [i for i in range(plan.rows) if plan[i * plan.columns].top + plan.window[0] > top or i >= first]
    part = plan.part(range(rows[0], plan.rows), range(columns[0], columns[-1] + 1))
    blend = Blend(part, computer.num_classes, shape=computer.options.window, seams=seams)
    for tile, values in run_plan(part, read, computer.compute_probabilities, fill=computer.fill):
        for start, column, band in blend.add(tile, values):
            if start >= top:
                kept = band[:, :, left - column : right - column]
                yield Block(
                    start, left, kept.argmax(axis=0).astype(computer.label_type) if result == "labels" else kept
                )
