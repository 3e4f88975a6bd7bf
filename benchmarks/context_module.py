# SPDX-License-Identifier: Apache-2.0
"""Yu and Koltun's question on CamVid: does the context module help, and does its start as the identity matter?

The front end alone, with the module drawn as the identity or at random, with rescaled inputs in the place of the
module, and DeconvNet, which grows maps by repeated up-convolution instead of keeping them large.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from benchmarks.lessons import IGNORE, camvid, fit, predict, run_arms
from denseg.metrics import ConfusionMatrix
from denseg.models import SegmentationModel, create_model
from denseg.models.dilated_context import DilatedContextNet, plug_in_context
from denseg.models.dilated_frontend import DilatedFrontend
from denseg.ops import resize

__all__ = ["main"]

ARMS = {
    "front end": {},
    "context, identity": {"size": "basic"},
    "context, random": {"size": "basic", "init": "random"},
    "rescaled inputs": {},
    "up-convolution": {},
}
SCALES = (0.5, 1.0, 1.5)
STEPS, MORE, CROP, WIDTH = 200, 100, 160, 0.08


def main() -> None:
    """Train every arm, or those that the command line names."""
    run_arms("context_module", {name: functools.partial(arm, name) for name in ARMS}, table)


def arm(name: str) -> dict[str, Any]:
    """Train one: the front end first, then the same number of steps more with what the arm adds."""
    torch.manual_seed(0)
    train, test = camvid("train", count=120), camvid("val", count=40)
    result: dict[str, Any] = {}
    if name == "up-convolution":
        model: SegmentationModel = create_model("deconvnet", num_classes=11, width=WIDTH)
        result["loss"] = round(fit(model, train, steps=STEPS + MORE, crop=CROP), 3)
    else:
        model = create_model("dilated_frontend", num_classes=11, width=WIDTH)
        fit(model, train, steps=STEPS, crop=CROP)
        if name.startswith("context"):
            whole = create_model("dilated_context", num_classes=11, width=WIDTH, **ARMS[name])
            if isinstance(whole, DilatedContextNet) and isinstance(model, DilatedFrontend):
                report = plug_in_context(whole, model, test.images[:8])
                result |= {"changed": round(report.changed, 4), "negative": round(report.negative, 4)}
            model = whole
        result["loss"] = round(fit(model, train, steps=MORE, crop=CROP, rate=1e-3), 3)
    run = functools.partial(rescaled, model) if name == "rescaled inputs" else None
    labels = predict(model, test, run=run)
    matrix = ConfusionMatrix(11, IGNORE)
    matrix.update(torch.from_numpy(labels), test.labels)
    return result | {"miou": round(float(matrix.compute().miou), 4)}


def rescaled(model: SegmentationModel, image: Tensor) -> Tensor:
    """Average the probabilities of an image at several sizes."""
    height, width = image.shape[-2:]
    total = torch.zeros(())
    for scale in SCALES:
        size = round(height * scale), round(width * scale)
        total = total + resize(model(resize(image, size)).logits, (height, width)).softmax(dim=1)
    return total


def table(results: dict[str, Any]) -> str:
    """Write the results."""
    lines = [
        "# Does the context module help?\n",
        f"mIoU on 40 frames of CamVid (240x180) after {STEPS} steps of a front end of {WIDTH:g} times the paper's "
        f"width from random weights on 120, and {MORE} steps more with what the line adds. *Changed*: labels that the "
        "module changes before it is trained; *negative*: positions at which no class has a positive score. One seed, "
        "far fewer steps than the paper's 20K: the order is an indication. `python -m benchmarks.context_module`.\n",
        "| network | mIoU | changed | negative | loss |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, row in results.items():
        shares = [f"{row[key]:.1%}" if key in row else "" for key in ("changed", "negative")]
        lines.append(f"| {name} | {row['miou']:.3f} | {shares[0]} | {shares[1]} | {row['loss']:.3f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
