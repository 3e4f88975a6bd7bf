# SPDX-License-Identifier: Apache-2.0
"""What the masks of a data set most likely mean: from the values they hold, and from ``dataset.yaml`` where there is one.

Letters: K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from denseg.data.description import Description
from denseg.data.encoding import MaskEncoding
from denseg.data.findings import Finding, find
from denseg.data.survey import MaskFacts
from denseg.types import ClassTable, distinct_colors

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
    findings: list[Finding] = field(default_factory=list)

    def count(self, facts: MaskFacts) -> NDArray[np.int64]:
        """Give the labelled pixels of each class in a mask.

        Args:
            facts: What the mask holds.

        Returns:
            ``(K,)`` int64.
        """
        counts = np.zeros(len(self.classes), np.int64)
        for value, pixels in zip(facts.values.tolist(), facts.counts.tolist(), strict=True):
            label = self.encoding.lookup(value)
            if label is not None and label < len(counts):
                counts[label] += pixels
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
        The proposal.
    """
    present = sorted({value for _, facts in masks for value in facts.values.tolist()})
    ignore = description.ignore_index if ignore_index is None else ignore_index
    if description.classes:
        names = [described.name for described in description.classes]
        fallback = distinct_colors(len(names))
        colors = [described.color or fallback[index] for index, described in enumerate(description.classes)]
        label = ignore if ignore is not None and not 0 <= ignore < len(names) else 255
        table = ClassTable(tuple(names), tuple(colors), label)
        values = {index: index for index in range(len(names))} | {label: label}
    else:
        rest = [value for value in present if value != ignore]
        if 255 in rest and len(rest) > 2 and ignore is None:
            ignore = 255
            rest.remove(255)
        identity = max(rest, default=0) < 2 * len(rest)
        count = max(rest, default=0) + 1 if identity else len(rest)
        table = ClassTable.numbered(max(count, 1), ignore_index=255 if ignore is None or ignore < count else ignore)
        values = (
            {index: index for index in range(count)} if identity else {value: rank for rank, value in enumerate(rest)}
        )
        if ignore is not None:
            values[ignore] = table.ignore_index
    encoding = MaskEncoding("index", len(table), table.ignore_index, tuple(values.items()))
    findings = [
        find(
            "mask-encoding",
            f"masks hold {present[:12]}: read as {len(table)} classes",
            "apply this mapping",
            count=len(masks),
        )
    ]
    beyond = [value for value in present if encoding.lookup(value) is None]
    if beyond:
        files = [path for path, facts in masks if set(facts.values.tolist()) & set(beyond)]
        findings.append(
            find(
                "values-beyond-classes",
                f"masks hold {beyond[:8]}, which is no class",
                "name them in dataset.yaml",
                files=files,
            )
        )
    return Proposal(encoding, table, findings)
