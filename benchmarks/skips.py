# SPDX-License-Identifier: Apache-2.0
"""What skips are for: IoU inside objects and along their outlines, for 0 to 4 skips of FCN and U-Net, on CamVid."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from benchmarks.lessons import IGNORE, camvid, fit, predict, run_arms
from denseg.metrics import ConfusionMatrix
from denseg.models import create_model

__all__ = ["main"]

STRIDES = (16, 8, 4, 2)
BAND = 4  # pixels from an outline
STEPS, CROP = 300, 160


def main() -> None:
    """Train ten networks, or those that the command line names."""
    run_arms(
        "skips",
        {f"{model}-{count}": functools.partial(arm, model, count) for model in ("fcn8s", "unet") for count in range(5)},
        table,
    )


def arm(name: str, count: int) -> dict[str, Any]:
    """Train one network with the coarsest ``count`` skips."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"skips": list(STRIDES[:count])}
    if name == "unet":
        options["decoder_channels"] = [48, 32, 24, 16, 16]
    model = create_model(name, num_classes=11, backbone="test_resnet", **options)
    loss = fit(model, camvid("train", count=120), steps=STEPS, crop=CROP)
    test = camvid("val", count=40)
    labels, target = predict(model, test), test.labels.numpy()
    near = np.stack([_near_outline(truth) for truth in target])
    scores = {"loss": round(loss, 3)}
    for place, mask in (("whole", None), ("interior", near), ("outline", ~near)):
        matrix = ConfusionMatrix(11, IGNORE)
        truth = target if mask is None else np.where(mask, IGNORE, target)
        matrix.update(torch.from_numpy(labels), torch.from_numpy(truth))
        scores[place] = round(float(matrix.compute().miou), 4)
    return scores


def table(results: dict[str, Any]) -> str:
    """Write the results."""
    lines = [
        "# Skips\n",
        f"mIoU on 40 frames of CamVid (240x180) after {STEPS} steps from random weights on 120, for FCN and U-Net on "
        f"one small backbone (`test_resnet`, 0.5 million parameters) with the skips of the coarsest strides. "
        f"*Outline*: pixels within {BAND} of another class; *interior*: the others. One seed: differences below 0.01 "
        "mean nothing. `python -m benchmarks.skips`.\n",
        "| network | skips | whole | interior | outline | loss |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for key, row in results.items():
        name, _, count = key.partition("-")
        strides = ", ".join(map(str, STRIDES[: int(count)])) or "none"
        network = "FCN" if name == "fcn8s" else "U-Net"
        lines.append(
            f"| {network} | {strides} | {row['whole']:.3f} | {row['interior']:.3f} | {row['outline']:.3f} "
            f"| {row['loss']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def _near_outline(labels: np.ndarray) -> np.ndarray:
    """Pixels within BAND pixels of a pixel of another class."""
    change = np.zeros(labels.shape, bool)
    change[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    change[1:] |= labels[1:] != labels[:-1]
    return np.asarray(ndimage.distance_transform_edt(~change) < BAND)


if __name__ == "__main__":
    main()
