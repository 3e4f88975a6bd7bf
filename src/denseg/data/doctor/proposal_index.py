# SPDX-License-Identifier: Apache-2.0
"""Masks that hold numbers: 0 and 255, class indices from 0 or from 1, 255 as border, spread grey levels, object ids."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from denseg.data.doctor.findings import Finding, find
from denseg.data.doctor.tally import Blur, Tally, find_blur, shown
from denseg.data.encoding import Color, MaskEncoding
from denseg.data.folders.description import Description
from denseg.types import ClassTable, distinct_colors

__all__ = ["Reading", "blur_finding", "guess_finding", "propose_numbers"]

BORDER = 255
MAX_BORDER_SHARE = 0.2  # a border is thin; more of it is a class, or labels that would be lost
FEW = 4  # clean values that a person sees at a glance to be all or not
SHOWN = 32  # entries of the mapping that a line shows


@dataclass(frozen=True)
class Reading:
    """An encoding in the making.

    Attributes:
        names: Of the classes.
        colors: Of the classes; ``None`` where the data says nothing about one.
        values: Stored value (or colour as one number) to class index; -1 is "no label".
        ignore: The label for "no label" that is wished for.
        color: Whether the stored values are colours.
        other: Class of every value that is not listed; -1 is "no label", ``None`` an error.
        tolerance: Distance up to which values are taken for the nearest listed one.
        threshold: Values from here on are class 1, the others class 0; ``None`` where the values are listed.
        findings: What was found on the way.
    """

    names: tuple[str, ...]
    colors: tuple[Color | None, ...]
    values: Mapping[int, int]
    ignore: int = 255
    color: bool = False
    other: int | None = None
    tolerance: int = 0
    threshold: float | None = None
    findings: tuple[Finding, ...] = field(default=())

    @classmethod
    def nothing(cls, description: Description) -> Reading:
        """Give a reading where there is no mask: the classes of ``dataset.yaml``, or one."""
        names = tuple(described.name for described in description.classes) or ("class_0",)
        colors = tuple(described.color for described in description.classes) or (None,)
        return cls(names, colors, {index: index for index in range(len(names))})

    def build(self) -> tuple[MaskEncoding, ClassTable]:
        """Give the encoding and the class table."""
        count = len(self.names)
        ignore = self.ignore if not 0 <= self.ignore < count and 0 <= self.ignore <= 65535 else 255
        ignore = ignore if ignore >= count else 65535
        fallback = distinct_colors(count)
        colors = tuple(color or fallback[index] for index, color in enumerate(self.colors))
        labels = {value: ignore if label < 0 else label for value, label in self.values.items()}
        stored = tuple(sorted(labels.items()))
        encoding = MaskEncoding(
            kind="color" if self.color else "index",
            num_classes=count,
            ignore_index=ignore,
            values=() if self.color else stored,
            colors=tuple(((v >> 16, v >> 8 & 255, v & 255), label) for v, label in stored) if self.color else (),
            other=ignore if self.other == -1 else self.other,
            tolerance=self.tolerance,
            threshold=self.threshold,
        )
        return encoding, ClassTable(self.names, colors, ignore)


def propose_numbers(tally: Tally, description: Description) -> Reading:
    """Propose what numbers mean.

    Args:
        tally: The masks.
        description: What ``dataset.yaml`` says.

    Returns:
        The reading; an error among its findings where the values do not fit together.
    """
    if description.instances:
        return _instances(tally, description)
    listed = _listed(description)
    if listed is not None:
        return _as_listed(tally, description, listed)
    blur = find_blur(tally)
    if blur is not None:
        return _from_blurred(tally, description, blur)
    values = tally.values.tolist()
    reading = _described(tally, values, description) if description.classes else _inferred(tally, values, description)
    return _with_palette(tally, reading)


def blur_finding(blur: Blur, tally: Tally) -> Finding:
    """Say that masks are blurred, and whether they can be used.

    Args:
        blur: What was found.
        tally: The masks.

    Returns:
        The finding: a warning where every pixel can be told, an error where classes ran into each other.
    """
    lossy = any(facts.lossy for _, facts in tally.masks)
    cause = "went through JPEG" if lossy else "have soft edges, as after a smooth resize or drawing"
    clean = shown(list(blur.clean), color=tally.color)
    part = f"{100 * blur.share:.2g} % of the pixels"
    if blur.readable:
        message = f"{len(blur.files)} masks {cause}: {part} lie between the clean values {clean}"
        return find("blurred-masks", message, "take each such pixel for the nearest clean value", files=blur.files)
    message = f"{len(blur.files)} masks {cause}, and their classes lie too near to each other to be told apart again"
    return find("blurred-beyond-repair", message, "export the masks again as PNG, without resizing", files=blur.files)


def guess_finding(blur: Blur) -> Finding:
    """Say that the number of classes is a guess: a warning where they are few, else an error."""
    message = f"{len(blur.clean)} clean values were found in blurred masks; thin classes may have none"
    if len(blur.clean) <= FEW:
        action = "every pixel takes the nearest one; name the classes in dataset.yaml if one is missing"
        return replace(find("classes-guessed", message, action, files=blur.files), severity="warning")
    action = "name the classes in dataset.yaml, or go on with --set data.accept=[classes-guessed]"
    return find("classes-guessed", message, action, files=blur.files)


def _described(tally: Tally, values: list[int], description: Description) -> Reading:
    """Fit the values to the classes that ``dataset.yaml`` names."""
    names = [described.name for described in description.classes]
    count, ignore = len(names), description.ignore_index
    base = _base(description)
    rest = [value for value in values if value != ignore]
    if ignore is not None and 0 <= ignore < count and count not in rest and max(rest, default=0) < count:
        return _without_ignored(tally, values, description)
    if ignore is not None and len(rest) == 1 and len(values) == 2 and count > 1:
        return replace(
            base, values={rest[0]: min(rest[0], count - 1), ignore: -1}, findings=(_drops(tally, ignore, rest[0]),)
        )
    border = ignore is None and BORDER in rest and count <= BORDER and len(rest) > 2
    if border and all(value <= count for value in rest if value != BORDER):
        rest, ignore = [value for value in rest if value != BORDER], BORDER
    lost = {} if ignore is None else {ignore: -1}
    if all(0 <= value < count for value in rest):
        reading = replace(base, values={index: index for index in range(count)} | lost)
        return _told(tally, reading, values, "stored numbers are class indices", border=BORDER if border else None)
    if 0 not in rest and all(1 <= value <= count for value in rest):
        reading = replace(base, values={index + 1: index for index in range(count)} | lost)
        return _told(tally, reading, values, "the first class is stored as 1", border=BORDER if border else None)
    if count == 1 and len(rest) == 2:
        reading = replace(base, names=("background", *base.names), colors=((0, 0, 0), *base.colors))
        reading = replace(reading, values={rest[0]: 0, rest[1]: 1} | lost)
        note = f"{description.source} names one class: {rest[0]} is taken for background, {rest[1]} for {names[0]!r}"
        return _told(tally, reading, values, note)
    # Grey levels stand apart; 0, 1, 7 are class indices, one of them out of range.
    apart = all(after - before >= 8 for before, after in itertools.pairwise(rest))
    if apart and len(rest) == count and (count > 2 or rest[0] == 0):
        reading = replace(base, values={value: rank for rank, value in enumerate(rest)} | lost)
        not_ignore = "; 255 is a class here, not ignore" if BORDER in rest else ""
        return _told(tally, reading, values, f"the stored numbers in ascending order are the classes{not_ignore}")
    beyond = [value for value in rest if not 0 <= value < count]
    reading = replace(base, values={index: index for index in range(count)} | lost)
    return replace(reading, findings=(_beyond(tally, beyond, description, rest),))


def _inferred(tally: Tally, values: list[int], description: Description) -> Reading:
    """Guess the classes from the values alone."""
    ignore = description.ignore_index
    rest = [value for value in values if value != ignore]
    lost = {} if ignore is None else {ignore: -1}
    if len(rest) <= 1:
        return _one_value(tally, values, rest, ignore)
    mixture = _two_scales(tally, rest)
    if mixture is not None:
        return mixture
    if _looks_like_objects(tally):
        return _object_numbers(tally)
    border = None
    ids = [value for value in rest if value != BORDER]
    if ignore is None and BORDER in rest and len(ids) >= 2 and max(ids) < 2 * len(ids) + 2:
        border, rest, lost = BORDER, ids, {BORDER: -1}
    first = 1 if rest[0] == 1 and len(rest) > 1 else 0
    dense = rest[0] >= 0 and max(rest) + 1 - first < 2 * len(rest) + 2 and not (len(rest) == 2 and max(rest) > 2)
    if not dense and len(rest) > 64:
        return _object_numbers(tally)
    if dense:
        count = max(rest) + 1 - first
        names = tuple(f"class_{index}" for index in range(count))
        reading = Reading(names, (None,) * count, {index + first: index for index in range(count)} | lost, ignore=255)
        note = "the first class is stored as 1" if first else "stored numbers are class indices"
        return _told(tally, reading, values, note, border=border)
    names = tuple(f"value_{value}" for value in rest)
    reading = Reading(names, (None,) * len(rest), {value: rank for rank, value in enumerate(rest)} | lost)
    return _told(
        tally, reading, values, "255 is a class here, not ignore" if BORDER in rest else "each value is a class"
    )


def _told(tally: Tally, reading: Reading, values: Sequence[int], note: str, *, border: int | None = None) -> Reading:
    """Add the line that says how masks are read, and an error where the border would swallow labels."""
    if border is not None:
        note += f"; {border} is a border without label"
    elif any(reading.values.get(value) == -1 for value in values):
        note += f"; {shown([v for v in values if reading.values.get(v) == -1])} means no label"
    parts = [
        f"{value} -> {reading.names[label] if label >= 0 else 'ignore'}"
        for value, label in sorted(reading.values.items())
        if value in set(values)
    ]
    table = ", ".join(parts if len(parts) <= SHOWN else [*parts[:SHOWN], f"and {len(parts) - SHOWN} more"])
    if reading.other is not None:
        table += f", every other value -> {reading.names[reading.other] if reading.other >= 0 else 'ignore'}"
    count = len(reading.names)
    message = f"masks hold {shown(list(values))}: read as {count} {'class' if count == 1 else 'classes'}; {note}"
    findings = [find("mask-encoding", message, f"read {table}", count=len(tally.masks))]
    if border is not None and tally.share([border]) > MAX_BORDER_SHARE:
        share = f"{100 * tally.share([border]):.0f} %"
        findings.append(
            find(
                "labels-lost",
                f"255 covers {share} of all pixels, too much for a border: labelled pixels would be ignored",
                "put `ignore_index: 255` into dataset.yaml if 255 means no label, or name it under `label_map`",
                files=tally.holding([border]),
            )
        )
    return replace(reading, findings=(*reading.findings, *findings))


def _base(description: Description) -> Reading:
    names = tuple(described.name for described in description.classes)
    ignore = 255 if description.ignore_index is None else description.ignore_index
    return Reading(names, tuple(described.color for described in description.classes), {}, ignore=ignore)


def _without_ignored(tally: Tally, values: list[int], description: Description) -> Reading:
    """Drop the class that ``ignore_index`` points to: the list names "no label" too."""
    dropped = description.ignore_index or 0
    base = _base(description)
    kept = [index for index in range(len(base.names)) if index != dropped]
    reading = replace(
        base,
        names=tuple(base.names[index] for index in kept),
        colors=tuple(base.colors[index] for index in kept),
        values={value: rank for rank, value in enumerate(kept)} | {dropped: -1},
    )
    return _told(tally, reading, values, f"{dropped} ({base.names[dropped]}) is ignored, as ignore_index says")


def _listed(description: Description) -> dict[int, int] | None:
    """Give the table that ``dataset.yaml`` spells out, from ``label_map`` or from each class's ``value``."""
    if description.label_map:
        listed = {}
        for key, label in description.label_map.items():
            if "," not in key and not key.startswith("#"):
                index = description.label_of(label, key)
                listed[int(key)] = -1 if index is None else index
        return listed or None
    if any(described.value is not None for described in description.classes):
        return {
            index if described.value is None else described.value: index
            for index, described in enumerate(description.classes)
        }
    return None


def _as_listed(tally: Tally, description: Description, listed: Mapping[int, int]) -> Reading:
    base = _base(description)
    if not base.names:
        count = max(listed.values()) + 1
        base = replace(base, names=tuple(f"class_{index}" for index in range(count)), colors=(None,) * count)
    values = dict(listed)
    if description.ignore_index is not None:
        values[description.ignore_index] = -1
    reading = replace(base, values=values, other=_other(description))
    present = tally.values.tolist()
    beyond = [value for value in present if value not in values]
    if reading.other is not None:
        return _told(tally, reading, present, f"as {description.source} says")
    if beyond and not any(facts.lossy for _, facts in tally.masks):
        return replace(reading, findings=(_beyond(tally, beyond, description, present),))
    blur = find_blur(tally, known=sorted(values))
    reading = _told(tally, reading, present if blur is None else blur.clean, f"as {description.source} says")
    if blur is None:
        return reading
    return replace(reading, tolerance=blur.tolerance, findings=(*reading.findings, blur_finding(blur, tally)))


def _other(description: Description) -> int | None:
    """Give the class of every value that is named nowhere: -1 for "no label", ``None`` where that is an error."""
    if not description.other:
        return None
    index = description.label_of(description.other, "other")
    return -1 if index is None else index


def _from_blurred(tally: Tally, description: Description, blur: Blur) -> Reading:
    values = list(blur.clean)
    if blur.readable:
        reading = (
            _described(tally, values, description) if description.classes else _inferred(tally, values, description)
        )
    else:
        reading = Reading.nothing(description)
    found = [*reading.findings, blur_finding(blur, tally)]
    if blur.readable and len(values) > 2 and not description.classes:
        found.append(guess_finding(blur))
    return replace(reading, tolerance=blur.tolerance, findings=tuple(found))


def _beyond(tally: Tally, beyond: Sequence[int], description: Description, present: Sequence[int]) -> Finding:
    count, source = len(description.classes), description.source
    message = f"masks hold {shown(list(beyond))}, which is no class: {source} names {count}, 0 to {count - 1}"
    action = "name each value under `label_map` in dataset.yaml, as a class or as `ignore`"
    if list(present) == list(range(count + 1)):
        message = f"masks hold 0 to {count}, {count + 1} values, and {source} names {count} classes"
        action = "name the class that 0 is, or say `ignore_index: 0` if 0 means no label"
    return find("values-beyond-classes", message, action, files=tally.holding(beyond))


def _drops(tally: Tally, ignore: int, left: int) -> Finding:
    return find(
        "labels-lost",
        f"masks hold {left} and {ignore}, and ignore_index is {ignore}: only {left} would be left to learn",
        f"remove ignore_index if {ignore} is a class",
        files=tally.holding([ignore]),
    )


def _one_value(tally: Tally, values: Sequence[int], rest: Sequence[int], ignore: int | None) -> Reading:
    reading = Reading(("class_0",), (None,), dict.fromkeys(rest, 0) | ({} if ignore is None else {ignore: -1}))
    if ignore is not None and len(values) == 2:
        return replace(reading, findings=(_drops(tally, ignore, rest[0]),))
    message = f"all masks together hold a single value, {shown(list(values))}: there is nothing to learn"
    files = [path for path, _ in tally.masks]
    return replace(reading, findings=(find("one-value", message, "check the export of the masks", files=files),))


def _two_scales(tally: Tally, rest: Sequence[int]) -> Reading | None:
    """Find folders where some masks hold 0 and 1, others 0 and 255: 1 and 255 are the same class."""
    if list(rest) != [0, 1, BORDER]:
        return None
    sets = [set(facts.values.tolist()) for _, facts in tally.masks]
    if any({1, BORDER} <= held for held in sets):
        return None
    ones = tally.holding([1])
    message = f"{len(ones)} masks hold 0 and 1, {len(tally.holding([BORDER]))} hold 0 and 255"
    action = "say `label_map: {0: 0, 1: 1, 255: 1}` in dataset.yaml if 1 and 255 are one class"
    finding = find("mixed-masks", message, action, files=ones)
    return Reading(("class_0", "class_1"), (None, None), {0: 0, 1: 1, BORDER: 1}, findings=(finding,))


def _looks_like_objects(tally: Tally) -> bool:
    """Whether masks count objects: each holds 0 or 1 to n without gaps, n differs between masks and grows large."""
    tops = [int(facts.values.max(initial=0)) for _, facts in tally.masks if len(facts.values)]
    full = sum(len(facts.values) >= facts.values.max(initial=0) for _, facts in tally.masks if len(facts.values))
    return max(tops) > 20 and full >= 0.8 * len(tops) and len(set(tops)) > max(2, 0.2 * len(tops))


def _object_numbers(tally: Tally) -> Reading:
    top = int(tally.values.max())
    message = f"masks hold {len(tally.values)} different values up to {top}: numbers of objects, not of classes"
    action = "say `instances: true` in dataset.yaml to read 0 as background and every object as one class"
    finding = find("object-numbers", message, action, files=[path for path, _ in tally.masks])
    return Reading(("background", "object"), ((0, 0, 0), None), {0: 0}, other=1, findings=(finding,))


def _instances(tally: Tally, description: Description) -> Reading:
    names = tuple(described.name for described in description.classes) or ("background", "object")
    if len(names) == 1:
        names = ("background", *names)
    if len(names) != 2:
        message = f"`instances: true` makes 2 classes, and dataset.yaml names {len(names)}"
        finding = find(
            "values-beyond-classes", message, "name background and one class", files=[p for p, _ in tally.masks]
        )
        return Reading(names, (None,) * len(names), {0: 0}, other=1, findings=(finding,))
    lost = {} if description.ignore_index is None else {description.ignore_index: -1}
    message = f"masks hold numbers of objects: 0 is read as {names[0]!r}, every other number as {names[1]!r}"
    finding = find("mask-encoding", message, f"as {description.source} says", count=len(tally.masks))
    return Reading(names, ((0, 0, 0), None), {0: 0} | lost, other=1, findings=(finding,))


def _with_palette(tally: Tally, reading: Reading) -> Reading:
    """Take the colours of a palette for the classes, where the masks have one and its colours differ."""
    palette = next((facts.palette for _, facts in tally.masks if facts.palette is not None), None)
    if palette is None or any(reading.colors):
        return reading
    colors = list(reading.colors)
    for value, label in reading.values.items():
        if 0 <= label < len(colors) and 0 <= value < len(palette):
            red, green, blue = (int(part) for part in palette[value])
            colors[label] = (red, green, blue)
    used = [color for color in colors if color is not None]
    return replace(reading, colors=tuple(colors)) if len(set(used)) == len(used) == len(colors) else reading
