# SPDX-License-Identifier: Apache-2.0
"""How unlike the contexts of neighbours are, in four families of context: ``python -m benchmarks.context_jumps RUN``.

``RUN`` is a trained run of any model with a backbone; its own validation pictures are looked at. Each family's context
is built from the same features without weights of its own, so that the families differ in where they look, not in what
they learned: averages of regions (pooling pyramid, as regions and smoothed as PSPNet grows them), averages over the
taps of dilated kernels (ASPP), the mean over all positions weighted by likeness (Gaussian non-local), and HDNet's
relations. Writes ``benchmarks/results/context_jumps.*`` and ``docs/images/context_jumps.png``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import RESULTS, commit
from denseg.data.generated.controlled import SceneOptions, draw_scene
from denseg.data.samples.normalization import Normalization
from denseg.inference.writer import to_display
from denseg.layers.hybrid_distance_relation import hybrid_distance_relation
from denseg.metrics import context_jump
from denseg.models import load_checkpoint
from denseg.ops import adaptive_pool, resize
from denseg.ops.attention import dense_attention
from denseg.workflows.sheets import Panel, write_sheet

__all__ = ["CONTEXTS", "main"]

WINDOWS = (3, 5, 7, 9, 11, 15, 19)
PICTURES = 20
BINS = 6


def regions(x: Tensor, *, smooth: bool) -> Tensor:
    """Average 6x6 regions and give each position its region's."""
    pooled, size = adaptive_pool(x, BINS), (x.shape[2], x.shape[3])
    return resize(pooled, size) if smooth else F.interpolate(pooled, size=size, mode="nearest")


def taps(x: Tensor, dilations: Sequence[int] = (2, 4, 6)) -> Tensor:
    """Average the nine taps of a 3x3 kernel at several dilations."""
    kernel = x.new_full((x.shape[1], 1, 3, 3), 1 / 9)
    return torch.cat([F.conv2d(x, kernel, padding=d, dilation=d, groups=x.shape[1]) for d in dilations], dim=1)


def everywhere(x: Tensor) -> Tensor:
    """Average all positions, weighted by likeness."""
    rows = x.flatten(2).transpose(1, 2)  # (B, N, C)
    return dense_attention(rows, rows, rows, scale=x.shape[1] ** -0.5).transpose(1, 2).reshape(x.shape)


CONTEXTS: dict[str, Callable[[Tensor], Tensor]] = {
    "pooling pyramid, regions": lambda x: regions(x, smooth=False),
    "pooling pyramid, grown bilinearly": lambda x: regions(x, smooth=True),
    "ASPP, taps": taps,
    "non-local": everywhere,
    "HDR, relations": lambda x: hybrid_distance_relation(x, windows=WINDOWS),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and draw.

    Args:
        arguments: Of the command line; the process's own where ``None``.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.context_jumps", description=__doc__)
    parser.add_argument("run", help="a trained run or checkpoint")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=RESULTS.parents[1] / "docs" / "images" / "context_jumps.png")
    options = parser.parse_args(arguments)
    model, metadata = load_checkpoint(options.run)
    normalization = Normalization.from_json(metadata["normalization"])
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTEXTS}
    panels: list[Panel] = []
    with torch.inference_mode():
        for number in range(PICTURES):
            image = draw_scene(np.random.default_rng((9, number)), SceneOptions()).image
            bands = np.repeat(image[:, :, None], normalization.bands, axis=2)
            features = model.backbone(torch.from_numpy(normalization.apply(bands))[None])[-1]
            jumps = {name: context_jump(make(features), bins=BINS) for name, make in CONTEXTS.items()}
            for name, jump in jumps.items():
                found[name].append((jump.inside, jump.across))
            if not panels:
                panels.append(Panel(to_display(image), "image"))
                panels += [Panel(jump.jumps[0], name, (0.0, 2.0)) for name, jump in jumps.items()]
    rows = {name: np.mean(values, axis=0) for name, values in found.items()}
    document = {
        "title": "Jumps of context",
        "commit": commit(),
        "network": metadata["model"],
        "results": {
            name: {"inside": inside, "across": across, "ratio": across / inside if inside else None}
            for name, (inside, across) in rows.items()
        },
    }
    lines = [
        "# Jumps of context",
        "",
        f"Distance between the contexts of neighbouring positions, over their spread, on {PICTURES} drawn pictures, "
        f"inside the cells of a {BINS}x{BINS} grid and across their borders. All contexts come from the same features "
        "(a trained backbone's) without weights of their own.",
        "",
        "| context | inside | across | across / inside |",
        "| --- | --- | --- | --- |",
    ]
    for name, (inside, across) in rows.items():
        ratio = f"{across / inside:.2f}" if inside else "only across"
        lines.append(f"| {name} | {inside:.3f} | {across:.3f} | {ratio} |")
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "context_jumps.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (options.results / "context_jumps.md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    write_sheet(options.picture, panels, columns=3, title="Difference of the context of neighbours")
    print("\n".join(lines[4:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
