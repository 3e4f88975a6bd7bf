# SPDX-License-Identifier: Apache-2.0
"""The fingerprint of a data set: the few statistics that class weights, crop, normalisation and planning rest on.

Letters: N pairs, K classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from denseg.data.doctor.survey import ImageFacts, MaskFacts
from denseg.data.encoding import MaskEncoding
from denseg.types import ClassTable

__all__ = ["build_fingerprint"]


def build_fingerprint(
    images: Sequence[ImageFacts],
    masks: Sequence[MaskFacts],
    counts: NDArray[np.int64],
    classes: ClassTable,
    encoding: MaskEncoding,
) -> dict[str, Any]:
    """Summarise a data set.

    Args:
        images: What the N pictures hold.
        masks: What the N masks hold.
        counts: ``(N, K + 1)`` pixels of each class and, last, without label.
        classes: Names and colours.
        encoding: How masks become labels.

    Returns:
        JSON values: ``images`` (count, sizes, bands, dtype, formats), ``intensity`` per band, ``classes`` (pixels,
        share, pictures, objects, median object area), ``ignored_share``, ``boundary_share``.
    """
    if not images:
        return {}
    total = counts.sum(axis=0)
    labelled = max(int(total[:-1].sum()), 1)
    objects = _objects(masks, encoding, len(classes))
    measured = [mask.boundary for mask in masks if mask.boundary >= 0]
    return {
        "images": {
            "count": len(images),
            "height": _spread([image.info.height for image in images]),
            "width": _spread([image.info.width for image in images]),
            "bands": _tally(image.info.bands for image in images),
            "dtype": _tally(image.info.dtype for image in images),
            "format": _tally(image.info.format for image in images),
        },
        "intensity": _intensity(images),
        "classes": [
            {
                "name": name,
                "pixels": int(total[index]),
                "share": int(total[index]) / labelled,
                "images": int((counts[:, index] > 0).sum()),
                **objects[index],
            }
            for index, name in enumerate(classes.names)
        ],
        "ignored_share": int(total[-1]) / max(int(total.sum()), 1),
        "boundary_share": float(np.mean(measured)) if measured else None,
    }


def _spread(values: Sequence[int]) -> dict[str, int]:
    return {"min": min(values), "median": int(np.median(values)), "max": max(values)}


def _tally(values: Any) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items(), key=lambda item: str(item[0]))}


def _intensity(images: Sequence[ImageFacts]) -> list[dict[str, float]]:
    """Pool the statistics of the pictures that have the most usual number of bands, each picture counting the same."""
    bands = Counter(image.info.bands for image in images).most_common(1)[0][0]
    alike = [image for image in images if image.info.bands == bands]
    means = np.asarray([image.mean for image in alike])  # (N, C)
    variances = np.asarray([image.std for image in alike]) ** 2 + (means - means.mean(0)) ** 2
    return [
        {
            "low": min(image.low[band] for image in alike),
            "high": max(image.high[band] for image in alike),
            "mean": float(means[:, band].mean()),
            "std": float(variances[:, band].mean() ** 0.5),
        }
        for band in range(bands)
    ]


def _objects(masks: Sequence[MaskFacts], encoding: MaskEncoding, num_classes: int) -> list[dict[str, Any]]:
    """Count connected areas of each class in the masks that were looked at closely, and give their median area."""
    found: list[list[tuple[int, float]]] = [[] for _ in range(num_classes)]
    for mask in masks:
        if not mask.objects:
            continue
        values = np.asarray([value for value, _, _ in mask.objects], np.int64)
        labels = encoding.lookup_all(values) if (mask.kind == "color") == (encoding.kind == "color") else values * 0 - 1
        for label, (_, count, area) in zip(labels.tolist(), mask.objects, strict=True):
            if 0 <= label < num_classes:
                found[label].append((count, area))
    rows = []
    for areas in found:
        count = sum(count for count, _ in areas)
        median = float(np.median([area for _, area in areas])) if areas else None
        rows.append({"objects": count, "object_pixels": median})
    return rows
