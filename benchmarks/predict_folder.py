# SPDX-License-Identifier: Apache-2.0
"""A folder of photographs to index PNGs, end to end: ``denseg predict`` and the loop of a library's user.

The peer's side is what the documentation of segmentation_models_pytorch leads to: open, normalise, pad to 32, the model
under ``inference_mode``, argmax, save. Ours is the workflow of the command with ``--engine auto`` and, for the last
case, ``--precision bf16``; graph and choice of engine are remembered from a first run, as they are for a user.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
from PIL import Image

from benchmarks.harness import Case
from benchmarks.isolated import Isolated

__all__ = ["folder_cases"]

CLASSES, PICTURES, SIZE = 11, 8, (360, 480)  # CamVid
GOALS = {"float32": 0.6, "bf16": 0.35}
NETWORKS = {"U-Net / ResNet-34": ("unet", "resnet34"), "DeepLabV3+ / ResNet-50": ("deeplab_v3_plus", "resnet50")}
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def folder_cases() -> Iterator[Case]:
    """Give one case per network and precision.

    Yields:
        The cases; a case's processes live until the next one is asked for.
    """
    for network in NETWORKS:
        for precision, goal in GOALS.items():
            with Isolated(_ours, network, precision) as ours, Isolated(_theirs, network) as theirs:
                note = f"{PICTURES} pictures of {SIZE[0]}x{SIZE[1]}, {CLASSES} classes, decode to PNG"
                yield Case(f"{network}, {precision}", ours, theirs, goal, note)


def _pictures(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(PICTURES):
        coarse = Image.fromarray(rng.integers(0, 256, (36, 48, 3), dtype=np.uint8))
        coarse.resize(SIZE[::-1], Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


def _ours(network: str, precision: str) -> Callable[[], object]:
    from denseg.data.samples.normalization import Normalization
    from denseg.inference import engines
    from denseg.models import create_model, save_checkpoint
    from denseg.workflows.labelling import Extras
    from denseg.workflows.predict import predict

    engines.WORTH = 0.0  # a user's folder is larger than this one
    root = Path(tempfile.mkdtemp(prefix="denseg-benchmark-"))
    os.environ["DENSEG_CACHE"] = str(root / "cache")
    pictures = _pictures(root / "images")
    torch.manual_seed(0)
    name, backbone = NETWORKS[network]
    model = create_model(name, num_classes=CLASSES, backbone=backbone).eval()
    save_checkpoint(model, root / "model.safetensors", normalization=Normalization.imagenet().to_json())
    extras = Extras(engine="auto", precision=precision)

    def step() -> None:
        out = root / "out"
        shutil.rmtree(out, ignore_errors=True)
        predict(root / "model.safetensors", [pictures], out=out, extras=extras, device="cpu")

    step()
    return step


def _theirs(network: str) -> Callable[[], object]:
    root = Path(tempfile.mkdtemp(prefix="denseg-benchmark-"))
    pictures = _pictures(root / "images")
    torch.manual_seed(0)
    build = {"unet": smp.Unet, "deeplab_v3_plus": smp.DeepLabV3Plus}[NETWORKS[network][0]]
    model = build(NETWORKS[network][1], encoder_weights=None, classes=CLASSES).eval()
    state = model.state_dict()

    def step() -> None:
        fresh = build(NETWORKS[network][1], encoder_weights=None, classes=CLASSES).eval()  # a command loads its model
        fresh.load_state_dict(state)
        out = root / "out"
        out.mkdir(exist_ok=True)
        for path in sorted(pictures.iterdir()):
            pixels = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
            images = torch.from_numpy((pixels - MEAN) / STD).permute(2, 0, 1)[None]
            height, width = images.shape[2:]
            padded = torch.nn.functional.pad(images, (0, -width % 32, 0, -height % 32))
            with torch.inference_mode():
                labels = fresh(padded)[0, :, :height, :width].argmax(0)
            Image.fromarray(labels.numpy().astype(np.uint8)).save(out / path.name)

    step()
    return step
