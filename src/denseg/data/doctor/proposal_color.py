# SPDX-License-Identifier: Apache-2.0
"""Masks that hold colours: those that ``dataset.yaml`` names, or each clean colour as a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from denseg.data.doctor.findings import find
from denseg.data.doctor.proposal_index import Reading, blur_finding, guess_finding
from denseg.data.doctor.tally import Blur, Tally, find_blur, shown, unpack
from denseg.data.encoding import Color
from denseg.data.folders.description import Description, parse_color
from denseg.types import distinct_colors

__all__ = ["propose_colors"]

MAX_COLORS = 64
VOC_BORDER = (224, 224, 192)


def propose_colors(tally: Tally, description: Description) -> Reading:
    """Propose what colours mean.

    Args:
        tally: The masks.
        description: What ``dataset.yaml`` says.

    Returns:
        The reading; an error among its findings where colours are unknown.
    """
    listed = _listed(description)
    if listed:
        return _named(tally, description, listed)
    blur = find_blur(tally)
    if blur is not None and not blur.readable:
        return replace(Reading.nothing(description), color=True, findings=(blur_finding(blur, tally),))
    colors = list(blur.clean) if blur is not None else tally.values.tolist()
    files = [path for path, _ in tally.masks]
    if len(colors) > MAX_COLORS:
        message = f"masks hold {len(tally.values)} different colours: they look like photographs, not like masks"
        action = "check that pictures and masks are not swapped; else name the classes and colours in dataset.yaml"
        finding = find("too-many-colors", message, action, files=files)
        return replace(Reading.nothing(description), color=True, findings=(finding,))
    if len(colors) == 1:
        message = f"all masks together hold a single colour, {shown(colors, color=True)}: there is nothing to learn"
        finding = find("one-value", message, "check the export of the masks", files=files)
        return replace(Reading.nothing(description), color=True, findings=(finding,))
    if description.classes:
        message = (
            f"masks hold the colours {shown(colors, color=True)}, and {description.source} gives its classes no colours"
        )
        finding = find("values-beyond-classes", message, "give each class its `color` in dataset.yaml", files=files)
        return replace(Reading.nothing(description), color=True, findings=(finding,))
    return _each_a_class(tally, colors, blur)


def _listed(description: Description) -> dict[int, int]:
    """Give the colours that ``dataset.yaml`` names, as one number each."""
    listed = {
        _code(described.color): index
        for index, described in enumerate(description.classes)
        if described.color is not None
    }
    for key, label in description.label_map.items():
        if "," in key or key.startswith("#"):
            index = description.label_of(label, key)
            listed[_code(parse_color(key))] = -1 if index is None else index
    return listed


def _named(tally: Tally, description: Description, listed: dict[int, int]) -> Reading:
    names = tuple(described.name for described in description.classes)
    count = len(names) or max(listed.values()) + 1
    names = names or tuple(f"class_{index}" for index in range(count))
    ignore = 255 if description.ignore_index is None else description.ignore_index
    colors: list[Color | None] = [None] * count
    for code, label in listed.items():
        if label >= 0 and colors[label] is None:
            colors[label] = unpack(code)
    reading = Reading(names, tuple(colors), listed, ignore=ignore, color=True)
    present = tally.values.tolist()
    blur = find_blur(tally, known=sorted(listed))
    unknown = [code for code in present if code not in listed]
    if unknown and (blur is None or not blur.readable):
        files = tally.holding(unknown)
        message = f"masks hold {shown(unknown, color=True)}, which {description.source} does not name"
        action = "give the class its `color`, or name the colour under `label_map`, as a class or as `ignore`"
        return replace(reading, findings=(find("values-beyond-classes", message, action, files=files),))
    message = f"masks hold colours: read as {count} classes, as dataset.yaml says"
    findings = [find("mask-encoding", message, f"read {_table(reading, present)}", count=len(tally.masks))]
    if blur is not None:
        findings.append(blur_finding(blur, tally))
        reading = replace(reading, tolerance=blur.tolerance)
    return replace(reading, findings=tuple(findings))


def _each_a_class(tally: Tally, colors: Sequence[int], blur: Blur | None) -> Reading:
    voc = {_code(color): index for index, color in enumerate(distinct_colors(256))}
    border = _code(VOC_BORDER)
    ids = [voc[code] for code in colors if code in voc]
    plain = [code for code in colors if code != border]
    if all(code in voc for code in plain) and len(plain) > 1 and max(ids) < 2 * len(plain) + 2:
        count = max(ids) + 1
        values = {code: index for code, index in voc.items() if index < count} | (
            {border: -1} if border in colors else {}
        )
        named: list[Color | None] = list(distinct_colors(count))
        reading = Reading(tuple(f"class_{i}" for i in range(count)), tuple(named), values, color=True)
        note = "the colours are PASCAL VOC's, in its order"
    else:
        order = sorted(colors, key=lambda code: (sum(unpack(code)), code))
        names = tuple("color_{}_{}_{}".format(*unpack(code)) for code in order)
        values = {code: rank for rank, code in enumerate(order)}
        reading = Reading(names, tuple(unpack(code) for code in order), values, color=True)
        note = "each colour is a class, dark to light"
    count = len(reading.names)
    message = f"masks hold the colours {shown(colors, color=True)}: read as {count} classes; {note}"
    action = f"read {_table(reading, colors)}; name them in dataset.yaml"
    findings = [find("mask-encoding", message, action, count=len(tally.masks))]
    if blur is not None:
        findings.append(blur_finding(blur, tally))
        findings.append(guess_finding(blur))
        reading = replace(reading, tolerance=blur.tolerance)
    return replace(reading, findings=tuple(findings))


def _table(reading: Reading, present: Sequence[int]) -> str:
    known = [(code, label) for code, label in sorted(reading.values.items()) if code in set(present)]
    return ", ".join(f"{unpack(code)} -> {reading.names[label] if label >= 0 else 'ignore'}" for code, label in known)


def _code(color: Color) -> int:
    return (color[0] << 16) | (color[1] << 8) | color[2]
