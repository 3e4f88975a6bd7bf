# SPDX-License-Identifier: Apache-2.0
"""What the ways to keep U-Net's size cost: error against distance to the border, and against depth, on ISBI 2012."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import torch

from benchmarks.lessons import fit, isbi, predict, run_arms
from denseg.models import create_model

__all__ = ["main"]

WAYS: dict[str, dict[str, Any]] = {
    "interpolate": {"keep_size": "interpolate"},
    "transposed": {"keep_size": "transposed"},
    "same-zero": {"keep_size": "same"},
    "same-mirror": {"keep_size": "same", "padding": "mirror"},
    "overlap_tile": {"keep_size": "overlap_tile"},
}
BY_DEPTH = ("same-zero", "same-mirror", "overlap_tile")
BANDS = (0, 4, 8, 16, 32, 64, 257)
STEPS, CROP, WIDTH = 200, 252, 0.125


def main() -> None:
    """Train every way at full depth, and three of them at depths 2 to 4; or those that the command line names."""
    arms = [(way, 5) for way in WAYS] + [(way, levels) for levels in (4, 3, 2) for way in BY_DEPTH]
    run_arms("borders", {f"{way}-{levels}": functools.partial(arm, way, levels) for way, levels in arms}, table)


def arm(way: str, levels: int) -> dict[str, Any]:
    """Train one network on 14 slices; its error on 6 others, by distance to the border of the picture."""
    torch.manual_seed(0)
    options = dict(WAYS[way])
    learns = {"keep_size": "none"} if way == "overlap_tile" else options  # the valid net: the paper's own training
    model = create_model(
        "unet", num_classes=2, in_channels=1, form="paper", width=WIDTH, dropout=0.0, levels=levels, **learns
    )
    crop = CROP - (CROP - model.geometry.size_offset) % model.geometry.size_step
    loss = fit(model, isbi(range(14)), steps=STEPS, crop=crop, batch=1)
    if way == "overlap_tile":
        whole = create_model(
            "unet", num_classes=2, in_channels=1, form="paper", width=WIDTH, dropout=0.0, levels=levels, **options
        )
        whole.load_state_dict(model.state_dict())
        model = whole.eval()
    test = isbi(range(14, 20))
    wrong = predict(model, test) != test.labels.numpy()
    place = np.arange(512)
    inwards = np.minimum(place, 511 - place)
    distance = np.minimum(inwards[:, None], inwards[None, :])
    by_band = [
        round(float(wrong[:, (distance >= low) & (distance < high)].mean()), 4)
        for low, high in itertools.pairwise(BANDS)
    ]
    return {"loss": round(loss, 3), "error": round(float(wrong.mean()), 4), "by_band": by_band}


def table(results: dict[str, Any]) -> str:
    """Write the results."""
    bands = [f"{low} to {high - 1}" if high < 256 else f"from {low}" for low, high in itertools.pairwise(BANDS)]
    lines = [
        "# Ways to keep the size\n",
        f"Share of wrong pixels (%) on 6 slices of ISBI 2012 after {STEPS} steps of one crop of {CROP} from random "
        f"weights on 14 others: U-Net with an eighth of the paper's channels. Columns: pixels to the picture's border. "
        "`overlap_tile` was trained as the paper's valid net and is applied to the mirrored picture. One seed. "
        "`python -m benchmarks.borders`.\n",
        f"| way | levels | all | {' | '.join(bands)} | border / middle |",
        f"| --- | ---: | ---: | {'---: | ' * len(bands)}---: |",
    ]
    for key, row in results.items():
        way, _, levels = key.rpartition("-")
        cells = " | ".join(f"{100 * value:.1f}" for value in row["by_band"])
        ratio = row["by_band"][0] / max(row["by_band"][-1], 1e-9)
        lines.append(f"| {way} | {levels} | {100 * row['error']:.1f} | {cells} | {ratio:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
