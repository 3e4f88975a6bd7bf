# SPDX-License-Identifier: Apache-2.0
"""What the masks of a data set most likely mean: from the values they hold, and from ``dataset.yaml`` where it is.

Letters: K classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from denseg.data.doctor.findings import Finding, find
from denseg.data.doctor.proposal_bits import propose_bits, propose_threshold
from denseg.data.doctor.proposal_color import propose_colors
from denseg.data.doctor.proposal_index import Reading, propose_numbers
from denseg.data.doctor.survey import MAX_VALUES, THOUSAND, MaskFacts
from denseg.data.doctor.tally import Tally
from denseg.data.encoding import MaskEncoding
from denseg.data.folders.description import Description
from denseg.types import ClassTable

__all__ = ["Proposal", "propose_encoding"]


@dataclass(frozen=True)
class Proposal:
    """How masks will be read.

    Attributes:
        encoding: The table.
        classes: Names and colours.
        findings: The mapping and why (code ``mask-encoding``), and what speaks against it.
    """

    encoding: MaskEncoding
    classes: ClassTable
    findings: tuple[Finding, ...]

    def count(self, facts: MaskFacts) -> NDArray[np.int64]:
        """Give the pixels of each class in a mask, and of no class.

        Args:
            facts: What the mask holds.

        Returns:
            ``(K + 1,)`` int64; the last one counts pixels without a label.
        """
        counts = np.zeros(len(self.classes) + 1, np.int64)
        threshold = self.encoding.threshold
        if threshold is not None:
            unit = THOUSAND if facts.kind == "float" else 1
            np.add.at(counts, (facts.values >= threshold * unit).astype(np.int64), facts.counts)
            return counts
        if facts.kind == "float":
            return counts
        values, pixels = facts.values, facts.counts
        if self.encoding.kind == "color":
            tally = Tally.of([(Path(), facts)], color=True)
            values, pixels = tally.values, tally.pixels
        labels = self.encoding.lookup_all(values)
        labels = np.where((labels < 0) | (labels >= len(self.classes)), len(self.classes), labels)
        np.add.at(counts, labels, pixels)
        if len(facts.values) < MAX_VALUES:
            counts[-1] += facts.info.height * facts.info.width - int(facts.counts.sum())  # NaN among whole numbers
        return counts


def propose_encoding(
    masks: Sequence[tuple[Path, MaskFacts]], description: Description, *, ignore_index: int | None = None
) -> Proposal:
    """Propose what the stored values mean.

    Args:
        masks: File and facts of each readable mask.
        description: What ``dataset.yaml`` says.
        ignore_index: Stored value that means "no label", as the user set it; goes before ``dataset.yaml``.

    Returns:
        The proposal; its findings hold an error where the masks cannot be read without guessing.
    """
    if ignore_index is not None:
        description = description.model_copy(update={"ignore_index": ignore_index})
    findings = []
    broken = [path for path, facts in masks if facts.kind == "float"]
    if broken and description.threshold is None:
        findings.append(
            find(
                "float-mask",
                f"{_files(len(broken), 'mask holds', 'masks hold')} numbers that are not whole: probabilities or a"
                " resized picture",
                "save class indices as PNG, or divide grades by `threshold` in dataset.yaml",
                files=broken,
            )
        )
    whole = [(path, facts) for path, facts in masks if facts.kind != "float"]
    kinds = Counter(facts.kind for _, facts in whole)
    if description.threshold is not None:
        reading = propose_threshold(Tally.of(whole, color=kinds["color"] > 0), description, len(broken))
    elif not whole:
        reading = Reading.nothing(description)
    elif description.bits and not kinds["color"]:
        reading = propose_bits(Tally.of(whole), description)
    elif kinds["color"] == 0 and not _palettes_disagree(whole):
        reading = propose_numbers(Tally.of(whole), description)
    elif _mixed(whole, kinds):
        color = [path for path, facts in whole if facts.kind == "color"]
        numbers = [item for item in whole if item[1].kind != "color"]
        reading = propose_numbers(Tally.of(numbers), description)
        message = f"{len(color)} of {len(whole)} masks hold colours, the others numbers"
        findings.append(find("mixed-masks", message, "save all masks in one way, best as index PNG", files=color))
    else:
        reading = propose_colors(Tally.of(whole, color=True), description)
    encoding, classes = reading.build()
    return Proposal(encoding, classes, (*findings, *reading.findings))


def _palettes_disagree(masks: Sequence[tuple[Path, MaskFacts]]) -> bool:
    """Whether one index has different colours in different files, so that only the colours can be meant."""
    seen: dict[int, tuple[int, ...]] = {}
    for _, facts in masks:
        if facts.kind != "palette" or facts.palette is None:
            continue
        for value in facts.values.tolist():
            if value < len(facts.palette):
                color = tuple(facts.palette[value].tolist())
                if seen.setdefault(value, color) != color:
                    return True
    return False


def _mixed(masks: Sequence[tuple[Path, MaskFacts]], kinds: Counter[str]) -> bool:
    """Whether masks with numbers lie among colour masks and their grey values are no colours of those."""
    numbers = [facts for _, facts in masks if facts.kind == "index"]
    if not numbers or not kinds["color"]:
        return False
    colors = {int(value) for _, facts in masks if facts.kind == "color" for value in facts.values.tolist()}
    grey = {value << 16 | value << 8 | value for facts in numbers for value in facts.values.tolist() if value <= 255}
    return len(grey - colors - {0}) > 0 or any(int(facts.values.max(initial=0)) > 255 for facts in numbers)


def _files(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
