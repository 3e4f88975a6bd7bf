# SPDX-License-Identifier: Apache-2.0
"""The mask doctor: reads every picture and mask before training and says what is wrong and what denseg will do.

Letters: N pairs, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from denseg.config import DataConfig
from denseg.data.description import Description, read_description
from denseg.data.encoding import MaskEncoding
from denseg.data.findings import Finding, find
from denseg.data.folder import Inventory, Pair, discover
from denseg.data.proposal import propose_encoding
from denseg.data.survey import PairFacts, look_at
from denseg.types import ClassTable

__all__ = ["Examination", "examine"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Examination:
    """What the mask doctor knows about a data folder.

    Attributes:
        inventory: The pairs as listed.
        pairs: The pairs that training may use: readable, of equal size; in the inventory's order.
        encoding: How masks become labels.
        classes: Names and colours.
        findings: What was found, errors first.
        bands: Bands of the pictures as the network gets them.
        dtype: ``uint8``, ``uint16`` or ``float32``: of the deepest picture.
        counts: ``(N, K)`` int64 labelled pixels of each class in each of ``pairs``.
        fingerprint: Statistics as JSON values: sizes, intensities per band, class shares.
    """

    inventory: Inventory
    pairs: tuple[Pair, ...]
    encoding: MaskEncoding
    classes: ClassTable
    findings: tuple[Finding, ...]
    bands: int
    dtype: str
    counts: NDArray[np.int64]
    fingerprint: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether training may start: no finding is an error."""
        return all(finding.severity != "error" for finding in self.findings)

    def class_counts(self, split: str | None = None) -> NDArray[np.int64]:
        """Give the labelled pixels of each class in a split.

        Args:
            split: ``train``, ``val``, ``test``; ``None`` for all pairs.

        Returns:
            ``(K,)`` int64.
        """
        rows = [index for index, pair in enumerate(self.pairs) if split is None or pair.split == split]
        total: NDArray[np.int64] = self.counts[rows].sum(axis=0)
        return total


def examine(
    root: Path | str, *, config: DataConfig | None = None, progress: Progress | None = None, workers: int | None = None
) -> Examination:
    """Read every picture and mask of a folder.

    Args:
        root: The data folder.
        config: What the user set; defaults where empty.
        progress: Called with pairs read and pairs in all.
        workers: Processes that read; as many as there are processors if empty.

    Returns:
        What was found.

    Raises:
        DataError: The folder does not exist, holds no picture, or its ``dataset.yaml`` is wrong.
    """
    config = config or DataConfig()
    description = read_description(Path(root))
    inventory = discover(root)
    facts = []
    for number, pair in enumerate(inventory.pairs, 1):
        facts.append(look_at(pair, config.max_pixels))
        if progress is not None:
            progress(number, len(inventory.pairs))
    return _conclude(inventory, description, facts, config)


def _conclude(
    inventory: Inventory, description: Description, facts: list[PairFacts], config: DataConfig
) -> Examination:
    findings = _about_files(inventory, facts, config)
    proposal = propose_encoding(
        [(pair.mask, fact.mask) for pair, fact in zip(inventory.pairs, facts, strict=True) if fact.mask is not None],
        description,
        ignore_index=config.ignore_index,
    )
    findings += proposal.findings
    good = [
        (pair, fact)
        for pair, fact in zip(inventory.pairs, facts, strict=True)
        if fact.image is not None and fact.mask is not None and _same_size(fact)
    ]
    counts = np.zeros((len(good), len(proposal.classes) + 1), np.int64)
    for row, (_, fact) in enumerate(good):
        if fact.mask is not None:
            counts[row] = proposal.count(fact.mask)
    images = [fact.image for _, fact in good if fact.image is not None]
    bands = max((image.info.bands for image in images), default=3)
    order = ("uint8", "uint16", "float32")
    dtype = max((image.info.dtype for image in images), key=order.index, default="uint8")
    accepted = [
        replace(finding, severity="warning")
        if finding.severity == "error" and finding.code in config.accept
        else finding
        for finding in findings
    ]
    rank = {"error": 0, "warning": 1, "info": 2}
    accepted.sort(key=lambda finding: rank[finding.severity])
    return Examination(
        inventory=inventory,
        pairs=tuple(pair for pair, _ in good),
        encoding=proposal.encoding,
        classes=proposal.classes,
        findings=tuple(accepted),
        bands=bands,
        dtype=dtype,
        counts=counts[:, :-1],
        fingerprint={},
    )


def _same_size(fact: PairFacts) -> bool:
    if fact.image is None or fact.mask is None:
        return False
    return (fact.image.info.height, fact.image.info.width) == (fact.mask.info.height, fact.mask.info.width)


def _about_files(inventory: Inventory, facts: list[PairFacts], config: DataConfig) -> list[Finding]:
    findings = []
    if not inventory.pairs:
        findings.append(find("no-pairs", "no picture has a mask of the same name", "name both files alike", count=1))
    if inventory.unpaired_images and config.unpaired == "refuse":
        files = inventory.unpaired_images
        findings.append(
            find(
                "image-without-mask",
                f"{len(files)} pictures have no mask",
                "add masks, or --unpaired skip",
                files=files,
            )
        )
    bad_images = [
        (pair.image, fact.image_fault) for pair, fact in zip(inventory.pairs, facts, strict=True) if fact.image_fault
    ]
    if bad_images:
        findings.append(
            find(
                "image-unreadable",
                bad_images[0][1],
                "replace or remove the files",
                files=[path for path, _ in bad_images],
            )
        )
    bad_masks = [
        (pair.mask, fact.mask_fault) for pair, fact in zip(inventory.pairs, facts, strict=True) if fact.mask_fault
    ]
    if bad_masks:
        findings.append(
            find(
                "mask-unreadable", bad_masks[0][1], "replace or remove the files", files=[path for path, _ in bad_masks]
            )
        )
    sizes = [
        pair.mask
        for pair, fact in zip(inventory.pairs, facts, strict=True)
        if fact.image is not None and fact.mask is not None and not _same_size(fact)
    ]
    if sizes:
        findings.append(find("size-mismatch", f"{len(sizes)} masks differ in size", "make them equal", files=sizes))
    return findings
