# SPDX-License-Identifier: Apache-2.0
"""The mask doctor: reads every picture and mask before training and says what is wrong and what denseg will do.

Letters: N pairs, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from denseg.config import DataConfig
from denseg.data.doctor.checks import check_files, check_pairing, same_size
from denseg.data.doctor.crew import work_through
from denseg.data.doctor.findings import Finding, find
from denseg.data.doctor.fingerprint import build_fingerprint
from denseg.data.doctor.hygiene import check_splits, find_likeness, suggest_groups
from denseg.data.doctor.proposal import Proposal, propose_encoding
from denseg.data.doctor.remember import FactsCache, cache_folder
from denseg.data.doctor.survey import THUMBNAIL, Look, PairFacts, look_at
from denseg.data.encoding import MaskEncoding
from denseg.data.folders.folder import Inventory, Pair, discover
from denseg.types import ClassTable

__all__ = ["Examination", "examine"]

Progress = Callable[[int, int], None]
CLOSE_LOOKS = 64  # masks whose objects and boundaries are measured
FEW_PICTURES = 4
REMEMBERED = 400  # pairs from which on facts are kept in the cache
MOSTLY = 0.5
_RANK = {"error": 0, "warning": 1, "info": 2}
_DEPTHS = ("uint8", "uint16", "float32")


@dataclass(frozen=True)
class Examination:
    """What the mask doctor knows about a data folder.

    Attributes:
        inventory: The pairs as listed.
        pairs: The pairs that training may use: readable, of equal size; in the inventory's order, with groups.
        encoding: How masks become labels.
        classes: Names and colours.
        findings: What was found, errors first.
        bands: Bands of the pictures as the network gets them.
        dtype: ``uint8``, ``uint16`` or ``float32``: of the deepest picture.
        counts: ``(N, K)`` int64 labelled pixels of each class in each of ``pairs``.
        ignored: ``(N,)`` int64 pixels without a label in each of ``pairs``.
        fingerprint: Statistics as JSON values, see :func:`~denseg.data.doctor.fingerprint.build_fingerprint`.
    """

    inventory: Inventory
    pairs: tuple[Pair, ...]
    encoding: MaskEncoding
    classes: ClassTable
    findings: tuple[Finding, ...]
    bands: int
    dtype: str
    counts: NDArray[np.int64]
    ignored: NDArray[np.int64]
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
    root: Path | str,
    *,
    config: DataConfig | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
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
    inventory = discover(root)
    close = max(1, len(inventory.pairs) // CLOSE_LOOKS)
    looks = [Look(pair, config.max_pixels, index % close == 0) for index, pair in enumerate(inventory.pairs)]
    facts: dict[int, PairFacts] = {}
    for index, fact in _read_all(looks, workers):
        facts[index] = fact
        if progress is not None:
            progress(len(facts), len(looks))
    return _conclude(inventory, [(pair, facts[index]) for index, pair in enumerate(inventory.pairs)], config)


def _read_all(looks: Sequence[Look], workers: int | None) -> Iterator[tuple[int, PairFacts]]:
    """Read every pair, but for those of a large data set that were read before and have not changed."""
    cache = FactsCache(cache_folder() if len(looks) >= REMEMBERED else None)
    try:
        known = set()
        for index, fact in cache.recall(looks):
            known.add(index)
            yield index, fact
        left = [index for index in range(len(looks)) if index not in known]
        for place, fact in work_through(look_at, [looks[index] for index in left], lost=_lost, workers=workers):
            cache.keep(looks[left[place]], fact)
            yield left[place], fact
    finally:
        cache.close()


def _lost(look: Look, reason: str) -> PairFacts:
    """Answer for a pair whose worker died or hung: either file may be the cause."""
    message = f"{look.pair.image} or {look.pair.mask}: {reason}; replace them"
    return PairFacts(None, None, message, message)


def _conclude(inventory: Inventory, facts: Sequence[tuple[Pair, PairFacts]], config: DataConfig) -> Examination:
    description = inventory.description
    findings = check_pairing(inventory, skip_unpaired=config.unpaired == "skip") + check_files(facts)
    proposal = propose_encoding(
        [(pair.mask, fact.mask) for pair, fact in facts if fact.mask is not None],
        description,
        ignore_index=config.ignore_index,
    )
    good = [(pair, fact.image, fact.mask) for pair, fact in facts if fact.image and fact.mask and same_size(fact)]
    pairs = [pair for pair, _, _ in good]
    images = [image for _, image, _ in good]
    masks = [mask for _, _, mask in good]
    counts = np.zeros((len(good), len(proposal.classes) + 1), np.int64)
    for row, mask in enumerate(masks):
        counts[row] = proposal.count(mask)
    thumbnails = np.zeros((len(images), THUMBNAIL, THUMBNAIL), np.uint8)
    for row, (pair, image) in enumerate(zip(pairs, images, strict=True)):
        if pair.window is None:  # windows of one raster are alike in many ways
            thumbnails[row] = image.thumbnail
    likeness = find_likeness(pairs, thumbnails, [image.anchors for image in images])
    findings += [*proposal.findings, *_about_labels(pairs, counts, proposal), *check_splits(pairs, likeness)]
    if not any(pair.split or pair.group for pair in pairs):
        groups = suggest_groups(pairs, likeness)
        pairs = [replace(pair, group=groups.get(index, "")) for index, pair in enumerate(pairs)]
    bands = [image.info.bands for image in images]
    return Examination(
        inventory=inventory,
        pairs=tuple(pairs),
        encoding=proposal.encoding,
        classes=proposal.classes,
        findings=_ranked(findings, config.accept),
        bands=max(bands, default=3),
        dtype=max((image.info.dtype for image in images), key=_DEPTHS.index, default="uint8"),
        counts=counts[:, :-1],
        ignored=counts[:, -1],
        fingerprint=build_fingerprint(images, masks, counts, proposal.classes, proposal.encoding),
    )


def _ranked(findings: Sequence[Finding], accept: Sequence[str]) -> tuple[Finding, ...]:
    """Put errors first; what the user accepts by its code is a warning."""
    accepted = [
        replace(finding, severity="warning", action="go on, as accepted by name")
        if finding.severity == "error" and finding.code in accept
        else finding
        for finding in findings
    ]
    return tuple(sorted(accepted, key=lambda finding: _RANK[finding.severity]))


def _about_labels(pairs: Sequence[Pair], counts: NDArray[np.int64], proposal: Proposal) -> list[Finding]:
    """Judge the labels of the data set as a whole."""
    if not len(counts) or any(finding.severity == "error" for finding in proposal.findings):
        return []
    findings = []
    labelled = counts[:, :-1].sum(axis=1)
    empty = [pair.mask for pair, pixels in zip(pairs, labelled.tolist(), strict=True) if not pixels]
    if empty:
        message = f"{len(empty)} {'mask has' if len(empty) == 1 else 'masks have'} no labelled pixel"
        findings.append(find("mask-ignored", message, "leave them out of the loss; they teach nothing", files=empty))
    single = (counts[:, :-1] > 0).sum(axis=1) == 1
    alone = [pair.mask for pair, one in zip(pairs, single.tolist(), strict=True) if one]
    if alone:
        message = f"{len(alone)} of {len(pairs)} masks hold a single class"
        findings.append(find("one-class-masks", message, "train on them as they are", files=alone))
    ignored = float(counts[:, -1].sum()) / max(int(counts.sum()), 1)
    if ignored > MOSTLY:
        message = f"{100 * ignored:.0f} % of the pixels carry no label"
        findings.append(find("mostly-ignored", message, "learn from the others", count=len(pairs)))
    findings += _absent(pairs, counts, proposal.classes.names)
    if len(pairs) < FEW_PICTURES:
        message = f"only {len(pairs)} {'picture' if len(pairs) == 1 else 'pictures'} to learn and to judge from"
        findings.append(find("small-data", message, "go on; expect little", count=len(pairs)))
    return findings


def _absent(pairs: Sequence[Pair], counts: NDArray[np.int64], names: Sequence[str]) -> list[Finding]:
    findings = []
    total = counts[:, :-1].sum(axis=0)
    nowhere = [name for name, pixels in zip(names, total.tolist(), strict=True) if not pixels]
    if nowhere:
        message = f"no pixel anywhere of {_listed(nowhere)}"
        action = "keep the class; it gets no score and pulls no mean down"
        findings.append(find("class-absent", message, action, count=len(nowhere)))
    for split in dict.fromkeys(pair.split for pair in pairs if pair.split):
        rows = [index for index, pair in enumerate(pairs) if pair.split == split]
        here = counts[rows, :-1].sum(axis=0)
        missing = [
            name for name, pixels, all_ in zip(names, here.tolist(), total.tolist(), strict=True) if all_ and not pixels
        ]
        if missing:
            message = f"no pixel in {split} of {_listed(missing)}"
            action = "go on: it cannot be learnt" if split == "train" else "give it no score there"
            findings.append(find("class-absent", message, action, count=len(missing)))
    return findings


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
