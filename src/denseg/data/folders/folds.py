# SPDX-License-Identifier: Apache-2.0
"""K-fold division: every picture judges once, and trains in all other folds."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from denseg.errors import DataError

if TYPE_CHECKING:
    from denseg.data.folders.folder import Pair

__all__ = ["assign_fold", "make_folds"]

POOLED = {"train", "val"}
"""Splits that the folds divide anew; others, such as ``test``, stay as they are."""


def make_folds(
    stems: Iterable[str], folds: int, *, seed: int, groups: Mapping[str, str] | None = None
) -> dict[str, int]:
    """Divide pictures into folds of about equal size; a group is never divided.

    Groups go, largest first and otherwise in the order of a digest of seed and name, each to the fold that is smallest
    by then. So the division depends on names and seed only.

    Args:
        stems: Names of the pictures, each once.
        folds: How many folds, at least 2.
        seed: Another seed gives another division.
        groups: Group of each stem; stems that are not in it are groups of their own.

    Returns:
        The fold of each stem, 1 to ``folds``, in the order of ``stems``.

    Raises:
        DataError: There are fewer groups than folds.
    """
    names = list(stems)
    members: dict[str, list[str]] = {}
    for name in names:
        key = f"group:{groups[name]}" if groups is not None and name in groups else f"picture:{name}"
        members.setdefault(key, []).append(name)
    if len(members) < folds:
        raise DataError(
            f"{folds} folds need at least {folds} pictures of different groups, got {len(members)}; take fewer folds"
        )
    sizes = [0] * folds
    found: dict[str, int] = {}
    order = sorted(members, key=lambda key: (-len(members[key]), hashlib.sha256(f"{seed}\n{key}".encode()).hexdigest()))
    for key in order:
        smallest = sizes.index(min(sizes))
        sizes[smallest] += len(members[key])
        found.update(dict.fromkeys(members[key], smallest + 1))
    return {name: found[name] for name in names}


def assign_fold(pairs: Sequence[Pair], fold: int, folds: int, *, seed: int) -> tuple[Pair, ...]:
    """Give every pair its split in one fold: ``val`` in the fold that is held out, else ``train``.

    Pairs of the folder's own ``train`` and ``val``, and those without a split, are divided; others keep theirs.

    Args:
        pairs: What the folder holds.
        fold: The fold that is held out, 1 to ``folds``.
        folds: How many there are.
        seed: See ``make_folds``.

    Returns:
        The pairs, each with its split.
    """
    pooled = [pair for pair in pairs if pair.split is None or pair.split in POOLED]
    groups = {pair.stem: pair.group for pair in pooled if pair.group}
    found = make_folds((pair.stem for pair in pooled), folds, seed=seed, groups=groups)
    return tuple(
        dataclasses.replace(pair, split="val" if found[pair.stem] == fold else "train") if pair.stem in found else pair
        for pair in pairs
    )
