# SPDX-License-Identifier: Apache-2.0
"""Split hygiene: the same picture twice, nearly the same picture twice, neighbours of one video or volume.

Copies are found by content, near copies by 16x16 thumbnails, neighbours by numbered names whose consecutive pictures
look more alike than others of the series.

Letters: N pictures.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from denseg.data.doctor.anchors import Anchors, find_overlaps
from denseg.data.doctor.findings import Finding, find
from denseg.data.folders.folder import Pair
from denseg.files import sha256_of

__all__ = ["Likeness", "Series", "check_splits", "find_copies", "find_likeness", "suggest_groups"]

NEAR = 6.0  # root mean square difference of 8-bit thumbnails; measured: copies up to 4.3, other scenes from 20
FEW = 2500  # pictures up to which all distances are computed
NEIGHBOURS = 3
PCA = 12  # dimensions that neighbours are looked for in
MIN_SERIES = 8  # pictures; fewer cannot be told from chance
ALIKE = 0.75  # probability that two consecutive pictures are nearer than two others of the series
BLOCKS = 10  # a series that must be divided is cut into so many runs

Thumbnails = NDArray[np.uint8]


@dataclass(frozen=True)
class Series:
    """Pictures that follow each other.

    Attributes:
        name: What their names share.
        members: Indices of the pictures, in the order of their numbers.
        numbers: Their numbers.
    """

    name: str
    members: tuple[int, ...]
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Likeness:
    """Which pictures of a data set are alike.

    Attributes:
        copies: Groups of indices with equal content.
        near: Pairs of indices whose thumbnails nearly agree; copies among them.
        series: Frames of videos, slices of volumes.
        crops: Two indices of overlapping crops that are no frames of one video, and by how many rows and columns the
            second one is shifted.
    """

    copies: tuple[tuple[int, ...], ...]
    near: tuple[tuple[int, int], ...]
    series: tuple[Series, ...]
    crops: tuple[tuple[int, int, int, int], ...] = ()


def find_likeness(pairs: Sequence[Pair], thumbnails: Thumbnails, anchors: Sequence[Anchors] = ()) -> Likeness:
    """Compare every picture with every other.

    Args:
        pairs: The N pairs.
        thumbnails: ``(N, 16, 16)``.
        anchors: Of each picture, see :func:`~denseg.data.doctor.anchors.find_anchors`.

    Returns:
        What is alike.
    """
    copies = find_copies(pairs, [thumbnail.tobytes() for thumbnail in thumbnails])
    near, series = tuple(_near_pairs(thumbnails)), _find_series(pairs, thumbnails)
    film = {
        index: place for place, one in enumerate(series) for index in one.members
    }  # a moving camera is told as such
    crops = [one for one in find_overlaps(anchors) if film.get(one[0], -1) != film.get(one[1], -2)]
    return Likeness(tuple(map(tuple, copies)), near, series, tuple(crops))


def check_splits(pairs: Sequence[Pair], likeness: Likeness) -> list[Finding]:
    """Say which pictures are in the data more than once, or nearly so.

    Args:
        pairs: The N pairs.
        likeness: What is alike among them.

    Returns:
        The findings.
    """
    return [
        *_about_copies(pairs, likeness.copies),
        *_about_near(pairs, likeness.near, likeness.copies),
        *_about_crops(pairs, likeness.crops),
        *_about_series(pairs, likeness.series),
    ]


def _find_series(pairs: Sequence[Pair], thumbnails: Thumbnails) -> tuple[Series, ...]:
    """Find numbered pictures that look like frames of a video or slices of a volume."""
    numbered: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        match = None if pair.window else re.fullmatch(r"(.*?)(\d+)(\D*)", pair.stem)
        if match:
            numbered[f"{match[1]}*{match[3]}"].append((int(match[2]), index))
    found = []
    for name, members in numbered.items():
        members.sort()
        order = np.asarray([index for _, index in members])
        if len(order) >= MIN_SERIES and _follow_each_other(thumbnails[order].reshape(len(order), -1)):
            found.append(Series(name, tuple(order.tolist()), tuple(number for number, _ in members)))
    return tuple(found)


def suggest_groups(pairs: Sequence[Pair], likeness: Likeness) -> dict[int, str]:
    """Name a group for each picture that must not be parted from others.

    Args:
        pairs: The N pairs.
        likeness: What is alike among them.

    Returns:
        Group by index; pictures without one are on their own. A series that holds most of the data is cut into runs.
    """
    groups: dict[int, str] = {}
    series = likeness.series
    for one in series:
        whole = len(series) >= 4 and len(one.members) <= 0.4 * len(pairs)
        runs = 1 if whole else max(2, min(BLOCKS, len(one.members) // 4))
        for run, part in enumerate(np.array_split(np.asarray(one.members), runs)):
            groups |= {int(index): one.name if runs == 1 else f"{one.name} run {run + 1}" for index in part}
    parent = list(range(len(pairs)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    alike = [pair for copies in likeness.copies for pair in pairwise(copies)]
    for first, second, *_ in [*alike, *likeness.near, *likeness.crops]:
        if first not in groups and second not in groups:
            parent[root(second)] = root(first)
    clusters: dict[int, list[int]] = defaultdict(list)
    for index in range(len(pairs)):
        clusters[root(index)].append(index)
    for members in clusters.values():
        if len(members) > 1:
            groups |= dict.fromkeys(members, f"copies of {pairs[members[0]].stem}")
    return groups


def find_copies(pairs: Sequence[Pair], looks: Sequence[bytes] = ()) -> list[list[int]]:
    """Group pictures of equal content; only files of equal size are read.

    Args:
        pairs: The pairs.
        looks: Something of each picture that is the same wherever the content is; spares reading where it differs.

    Returns:
        Indices of pairs with the same picture, two or more in each group.
    """
    by_size: dict[tuple[int, int, bytes], list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        by_size[pair.image.stat().st_size, pair.image_page, looks[index] if looks else b""].append(index)
    by_content: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for (_, page, _), indices in by_size.items():
        files = {pairs[index].image for index in indices}
        if len(files) > 1:
            digests = {file: sha256_of(file) for file in files}
            for index in indices:
                by_content[digests[pairs[index].image], page, pairs[index].window].append(index)
    return [indices for indices in by_content.values() if len(indices) > 1]


def _about_copies(pairs: Sequence[Pair], copies: Sequence[Sequence[int]]) -> list[Finding]:
    across = [indices for indices in copies if len({pairs[index].split for index in indices}) > 1]
    within = [indices for indices in copies if len({pairs[index].split for index in indices}) == 1]
    findings = []
    if across:
        files = _files(pairs, across)
        names = _example(pairs, across[0])
        lies = _some(len(across), "picture lies", "pictures lie")
        message = f"{lies} in several splits with identical content, first {names}"
        action = "remove them from one split, or accept it with --set data.accept=[duplicates-across-splits]"
        findings.append(find("duplicates-across-splits", message, action, files=files, count=len(across)))
    if within:
        files = _files(pairs, within)
        names = _example(pairs, within[0])
        message = f"{_some(len(within), 'picture comes', 'pictures come')} several times in one split, first {names}"
        findings.append(
            find(
                "duplicates",
                message,
                "count each copy; remove them if that is not meant",
                files=files,
                count=len(within),
            )
        )
    return findings


def _about_near(
    pairs: Sequence[Pair], alike: Sequence[tuple[int, int]], copies: Sequence[Sequence[int]]
) -> list[Finding]:
    same = {frozenset(pair) for indices in copies for pair in pairwise(indices)}
    near = [pair for pair in alike if frozenset(pair) not in same]
    findings = []
    across = [(a, b) for a, b in near if pairs[a].split != pairs[b].split]
    if across:
        files = _files(pairs, across)
        message = f"{_some(len(across), 'pair', 'pairs')} of nearly equal pictures lie in different splits, first"
        message += f" {_example(pairs, across[0])}"
        action = "look at them; scores on such pictures say little"
        findings.append(find("near-duplicates-across-splits", message, action, files=files, count=len(across)))
    for split in dict.fromkeys(pair.split for pair in pairs):
        inside = [(a, b) for a, b in near if pairs[a].split == pairs[b].split == split]
        touched = sorted({index for pair in inside for index in pair})
        of = sum(pair.split == split for pair in pairs)
        if touched:
            where = f" of {split}" if split else ""
            message = (
                f"{len(touched)} of {of} pictures{where} nearly equal another one, first {_example(pairs, inside[0])}"
            )
            action = "train and score on them as they are; they count for less than their number"
            files = [pairs[index].image for index in touched]
            findings.append(find("near-duplicates", message, action, files=files))
    return findings


def _about_crops(pairs: Sequence[Pair], crops: Sequence[tuple[int, int, int, int]]) -> list[Finding]:
    findings = []
    across = [one for one in crops if pairs[one[0]].split != pairs[one[1]].split]
    for code, found in (
        ("overlapping-crops-across-splits", across),
        ("overlapping-crops", [one for one in crops if one not in across]),
    ):
        if not found:
            continue
        first, second, down, right = found[0]
        message = f"{_some(len(found), 'pair of pictures shows', 'pairs of pictures show')} the same part of a scene,"
        message += f" first {_example(pairs, (first, second))}, shifted by {abs(down)} rows and {abs(right)} columns"
        given = any(pair.split for pair in pairs)
        action = "train on them as they are" if given else "keep them on one side of the split"
        if found is across:
            action = "look at them; scores on such pictures say little. `group` in dataset.yaml keeps scenes together"
        files = list(dict.fromkeys(_files(pairs, [one[:2] for one in found])))
        findings.append(find(code, message, action, files=files, count=len(found)))
    return findings


def _about_series(pairs: Sequence[Pair], series: Sequence[Series]) -> list[Finding]:
    if not series:
        return []
    given = any(pair.split for pair in pairs)
    if not given:
        members = [pairs[index].image for one in series for index in one.members]
        names = _named(pairs, series)
        message = f"{len(members)} pictures follow each other like frames of a video or slices of a volume ({names})"
        action = "hold out runs of neighbours instead of single pictures; `group` in dataset.yaml decides otherwise"
        return [find("video-neighbours", message, action, files=members)]
    parted = [one for one in series if len({pairs[index].split for index in one.members}) > 1]
    if not parted:
        return []
    judged = [pairs[i] for one in parted for i in one.members if pairs[i].split != "train"]
    names = _named(pairs, parted)
    splits = sorted({pair.split or "" for pair in judged})
    message = (
        f"{len(judged)} pictures of {' and '.join(splits)} come from a video or volume that train shows too ({names};"
        f" {_gap(pairs, parted)}): scores on them say little about other scenes"
    )
    action = "use the split as given; to part by series, move the folders together and put `group` into dataset.yaml"
    return [find("video-neighbours", message, action, files=[pair.image for pair in judged])]


def _named(pairs: Sequence[Pair], series: Sequence[Series]) -> str:
    """Write series as the names of their first and last picture."""
    ends = [(pairs[one.members[0]].stem, pairs[one.members[-1]].stem) for one in series]
    return ", ".join(f"{first} to {last}" for first, last in ends[:3]) + (" and more" if len(ends) > 3 else "")


def _gap(pairs: Sequence[Pair], series: Sequence[Series]) -> str:
    """Say how near the pictures of train come to the others, in numbers of the series."""
    nearest = None
    for one in series:
        for a, b in pairwise(range(len(one.members))):
            if pairs[one.members[a]].split != pairs[one.members[b]].split:
                gap = one.numbers[b] - one.numbers[a]
                nearest = gap if nearest is None else min(nearest, gap)
    return f"nearest number {nearest} away"


def _follow_each_other(flat: NDArray[np.uint8]) -> bool:
    """Compare consecutive pictures with others of the series: the probability that a consecutive pair is nearer."""
    wide = flat.astype(np.float32)
    rng = np.random.default_rng(0)
    near = np.sqrt(((wide[1:] - wide[:-1]) ** 2).mean(1))
    first = rng.integers(0, len(wide), 2000)
    second = (first + rng.integers(2, max(3, len(wide) - 1), 2000)) % len(wide)
    other = np.sort(np.sqrt(((wide[first] - wide[second]) ** 2).mean(1)))
    left, right = np.searchsorted(other, near), np.searchsorted(other, near, side="right")
    probability = 1 - float(((left + right) / 2).mean()) / len(other)
    return probability >= ALIKE


def _near_pairs(thumbnails: Thumbnails) -> list[tuple[int, int]]:
    """Find pictures whose thumbnails nearly agree, with the three nearest of each."""
    flat = thumbnails.reshape(len(thumbnails), thumbnails.shape[1] * thumbnails.shape[2]).astype(np.float32)
    kept = np.flatnonzero(flat.max(axis=1, initial=0) > 0)  # constant pictures are all alike
    if len(kept) < 2:
        return []
    flat = flat[kept]
    candidates = _candidates(flat, NEAR * flat.shape[1] ** 0.5)
    near = [(a, b) for a, b in candidates if float(np.sqrt(((flat[a] - flat[b]) ** 2).mean())) <= NEAR]
    return sorted((int(kept[a]), int(kept[b])) for a, b in near)


def _candidates(flat: NDArray[np.float32], radius: float) -> set[tuple[int, int]]:
    """Give pairs of rows that may be within a distance: by all distances for few, in few dimensions for many."""
    if len(flat) <= FEW:
        squares = (flat**2).sum(1)
        distances = squares[:, None] + squares - 2 * flat @ flat.T
        np.fill_diagonal(distances, np.inf)
        nearest = np.argpartition(distances, min(NEIGHBOURS, len(flat)) - 1, axis=1)[:, :NEIGHBOURS]
        rows = np.arange(len(flat))[:, None]
        reached = distances[rows, nearest] <= (1.01 * radius) ** 2 + 1
    else:
        from scipy.spatial import cKDTree

        centred = flat - flat.mean(0)
        sample = centred[:: max(1, len(flat) // 2000)]
        points = centred @ np.linalg.eigh(sample.T @ sample)[1][:, -PCA:]  # distances only shrink in fewer dimensions
        found = cKDTree(points).query(points, k=NEIGHBOURS + 1, distance_upper_bound=radius)
        nearest, reached = np.asarray(found[1]), np.isfinite(np.asarray(found[0]))
    return {
        (min(row, int(place)), max(row, int(place)))
        for row in np.flatnonzero(reached.any(axis=1)).tolist()
        for place in nearest[row][reached[row]]
        if place != row
    }


def _files(pairs: Sequence[Pair], groups: Sequence[Sequence[int]]) -> list[Path]:
    return [pairs[index].image for group in groups for index in group]


def _example(pairs: Sequence[Pair], indices: Sequence[int]) -> str:
    return " and ".join("/".join(filter(None, (pairs[i].split, pairs[i].image.name))) for i in indices[:2])


def _some(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
