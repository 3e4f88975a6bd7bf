# SPDX-License-Identifier: Apache-2.0
"""How far the model can be believed: its probabilities, what is left when it may abstain, and objects by size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from denseg.report.charts import Chart, share_chart
from denseg.report.numbers import plural, score, share

__all__ = ["SizeBand", "Trust", "size_bands", "trust"]

_GOOD = 0.02  # expected calibration error
_FAIR = 0.06
_LEFT_OUT = 0.1  # share of the pixels that the words leave to a person


@dataclass(frozen=True)
class Trust:
    """What the page tells of the probabilities."""

    charts: tuple[Chart, ...]
    words: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class SizeBand:
    """Objects of one range of sizes.

    Attributes:
        title: The range, as the side of a square of that area.
        objects: How many there are.
        found: Part of them of which at least half was found.
        recall: Mean part of one that was found.
    """

    title: str
    objects: int
    found: float | None
    recall: float | None


def trust(evaluation: Mapping[str, Any]) -> Trust | None:
    """Lay out what is known of the probabilities of an evaluation.

    Args:
        evaluation: Content of ``evaluation/<split>.json``.

    Returns:
        Charts and words; ``None`` where nothing was counted.
    """
    found, risk = evaluation.get("calibration"), evaluation.get("risk_coverage")
    if not found:
        return None
    bins = [entry for entry in found["bins"] if entry["pixels"]]
    charts = [
        share_chart(
            "reliability",
            "Said and true",
            [entry["confidence"] for entry in bins],
            [
                ("share that is right", [entry["accuracy"] for entry in bins]),
                ("as it should be", [entry["confidence"] for entry in bins]),
            ],
            x_title="probability of the answer",
        )
    ]
    words = [_calibration_words(found)]
    if risk and len(risk["coverage"]) > 1:
        charts.append(
            share_chart(
                "risk",
                "Errors left when the least certain pixels are left out",
                risk["coverage"],
                [("wrong, of the pixels kept", risk["risk"])],
                x_title="part of the pixels that is kept",
            )
        )
        words.append(_risk_words(risk))
    facts = [
        ("calibration error", score(found["expected_calibration_error"])),
        ("without temperature", score(found["unscaled_error"])),
        ("temperature", f"{found['temperature']:.3f}"),
        ("Brier score", score(found["brier_score"])),
        ("pixels looked at", f"{found['pixels']:,}"),
    ]
    return Trust(tuple(chart for chart in charts if chart is not None), tuple(words), tuple(facts))


def size_bands(evaluation: Mapping[str, Any]) -> tuple[SizeBand, ...]:
    """Describe how much of small and of large objects was found.

    Args:
        evaluation: Content of ``evaluation/<split>.json``.

    Returns:
        From small to large; empty where nothing was counted.
    """
    bands = []
    for entry in evaluation.get("sizes") or ():
        low, high = (None if side is None else round(side**0.5) for side in (entry["from"], entry["to"]))
        title = f"{low} px and more" if high is None else f"below {high} px" if not low else f"{low} to {high} px"
        bands.append(SizeBand(title, entry["components"], entry["found"], entry["recall"]))
    return tuple(bands) if any(band.objects for band in bands) else ()


def _calibration_words(found: Mapping[str, Any]) -> str:
    error = found["expected_calibration_error"]
    kind = "can be taken at their word" if error <= _GOOD else "are a fair guide" if error <= _FAIR else "mislead"
    over = sum(
        ((entry["confidence"] or 0) - (entry["accuracy"] or 0)) * entry["pixels"]
        for entry in found["bins"]
        if entry["pixels"]
    )
    lean = "; it tends to be too sure of itself" if over > 0 else "; it tends to be too careful"
    text = f"Its probabilities {kind}: said and true differ by {share(error)} on average"
    return text + (lean if error > _GOOD else "") + "."


def _risk_words(risk: Mapping[str, Any]) -> str:
    pairs = list(zip(risk["coverage"], risk["risk"], strict=True))
    whole = pairs[-1][1]
    kept = min(pairs, key=lambda pair: abs(pair[0] - (1 - _LEFT_OUT)))
    if not whole or abs(kept[0] - (1 - _LEFT_OUT)) > _LEFT_OUT / 2:
        return ""
    return (
        f"Of all pixels {share(whole)} are wrong; leave out the {share(1 - kept[0])} that it is least sure of, and "
        f"{share(kept[1])} of the rest are."
    )


def object_words(evaluation: Mapping[str, Any]) -> str:
    """Say in a sentence how well small objects do against large ones."""
    bands = [band for band in size_bands(evaluation) if band.objects and band.found is not None]
    if len(bands) < 2:
        return ""
    first, last = bands[0], bands[-1]
    return (
        f"Of {plural(first.objects, 'object')} {first.title} {share(first.found)} are found, of "
        f"{plural(last.objects, 'object')} {last.title} {share(last.found)}; found means at least half of its pixels."
    )
