# SPDX-License-Identifier: Apache-2.0
"""Masks of bits (one for each class) and masks of grades that a threshold divides into two classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from denseg.data.doctor.findings import Finding, find
from denseg.data.doctor.proposal_index import Reading
from denseg.data.doctor.tally import Tally, shown
from denseg.data.folders.description import Description

__all__ = ["propose_bits", "propose_threshold"]

TABLE_BITS = 8  # up to so many, every combination is in the table, seen or not


def propose_bits(tally: Tally, description: Description) -> Reading:
    """Read each bit as a class; where classes overlap the later one lies on top.

    Args:
        tally: The masks.
        description: What ``dataset.yaml`` says, or the names of the files.

    Returns:
        The reading: background where no bit is set, then the classes in the order of their bits.
    """
    values = tally.values.tolist()
    ignore = description.ignore_index
    highest = max((value.bit_length() for value in values if value != ignore), default=0)
    named = [described for described in description.classes if described.name != "background"]
    names = [described.name for described in named] or [f"bit_{bit}" for bit in range(highest)]
    if highest > len(names) or min(values, default=0) < 0:
        beyond = [value for value in values if value != ignore and (value < 0 or value.bit_length() > len(names))]
        message = f"masks of bits hold {shown(beyond)}, which sets bits beyond the {len(names)} classes"
        action = "name all classes in dataset.yaml, in the order of their bits"
        finding = find("values-beyond-classes", message, action, files=tally.holding(beyond))
        return replace(Reading.nothing(description), findings=(finding,))
    known = set(values) | (set(range(1 << len(names))) if len(names) <= TABLE_BITS else set())
    table = {value: value.bit_length() for value in sorted(known) if value != ignore}
    lost = {} if ignore is None else {ignore: -1}
    colors = [described.color for described in named] or [None] * len(names)
    title = next((one for one in description.classes if one.name == "background"), None)
    ground = (0, 0, 0) if title is None or title.color is None else title.color
    order = ", ".join(names)
    message = f"each bit of the masks is a class, {len(names)} in all; no bit is background"
    findings = [find("mask-encoding", message, f"read the bits as {order}", count=len(tally.masks))]
    findings += _overlaps(tally, ignore, order)
    return Reading(
        ("background", *names), (ground, *colors), table | lost, ignore=255 if ignore is None else ignore,
        findings=tuple(findings),
    )  # fmt: skip


def propose_threshold(tally: Tally, description: Description, floats: int) -> Reading:
    """Read values from a threshold on as the second of two classes.

    Args:
        tally: The masks that hold whole numbers.
        description: What ``dataset.yaml`` says.
        floats: How many masks hold other numbers.

    Returns:
        The reading.
    """
    names = [described.name for described in description.classes] or ["background", "object"]
    colors = [described.color for described in description.classes] or [(0, 0, 0), None]
    if len(names) == 1:
        names, colors = ["background", *names], [(0, 0, 0), *colors]
    threshold = description.threshold
    if len(names) != 2 or threshold is None:
        message = f"`threshold` makes 2 classes, and {description.source} names {len(names)}"
        finding = find("values-beyond-classes", message, "name background and one class", count=len(tally.masks))
        return replace(Reading.nothing(description), findings=(finding,))
    message = f"masks hold grades: from {threshold:g} on they are read as {names[1]!r}, below as {names[0]!r}"
    finding = find("mask-encoding", message, f"as {description.source} says", count=len(tally.masks) + floats)
    ignore = 255 if description.ignore_index is None else description.ignore_index
    return Reading(tuple(names), tuple(colors), {}, ignore=ignore, threshold=threshold, findings=(finding,))


def _overlaps(tally: Tally, ignore: int | None, order: str) -> list[Finding]:
    several = [value for value in tally.values.tolist() if value != ignore and value & (value - 1)]
    share = tally.share(several)
    if not several or not np.isfinite(share):
        return []
    message = f"classes overlap in {100 * share:.2g} % of the pixels"
    action = f"the later one lies on top, in the order {order}; order the classes in dataset.yaml"
    return [find("overlapping-classes", message, action, files=tally.holding(several))]
