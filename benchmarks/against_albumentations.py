# SPDX-License-Identifier: Apache-2.0
"""What a training sample costs beside albumentations: the same files, the same operations, loaders of as many workers.

The peer is the usual data set of a training script: OpenCV decodes, albumentations changes the picture and mask after
each other. denseg decodes in the first epoch and maps the decoded pictures later; both are timed in later epochs.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.harness import Case
from denseg.config import AugmentConfig, ElasticConfig
from denseg.data.encoding import MaskEncoding
from denseg.data.folders.folder import Pair, discover
from denseg.data.samples.augment import Augmentation
from denseg.data.samples.cache import DecodedCache
from denseg.data.samples.dataset import SegmentationDataset
from denseg.data.samples.loader import make_loader
from denseg.data.samples.normalization import Normalization

__all__ = ["PEER", "loading_cases"]

PEER = "albumentations 2.0 with OpenCV, in torch's loader"
PAIRS, SIZE, CROP, BATCH, WORKERS = 160, (360, 480), 256, 8, 2
GOAL = 0.5  # twice the images a second
CACHE_GOAL = 1 / 3


def loading_cases() -> list[Case]:
    """Write a folder of photograph-like JPEG pictures and PNG masks of CamVid's size, and compare loading it.

    Returns:
        One case for scale, crop and flip, one for all operations, and one for later epochs against the first.
    """
    root = Path(tempfile.mkdtemp(prefix="denseg-bench-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    _write(root / "data")
    pairs = discover(root / "data").pairs
    everything = AugmentConfig(
        rotation=20, shear=5, perspective=0.1, elastic=ElasticConfig(sigma=10), gain=0.2, brightness=0.2, gamma=0.2,
        saturation=0.2, hue=10, noise=0.1, blur=2.0,
    )  # fmt: skip
    cases = []
    for name, further in (("scale, crop, flip", AugmentConfig()), ("all operations", everything)):
        ours = _epochs(_ours(pairs, further, DecodedCache(root / name, limit=1 << 31)))
        note = f"{PAIRS} pairs of {SIZE[1]}x{SIZE[0]}, crops of {CROP}, batches of {BATCH}, {WORKERS} workers each"
        cases.append(Case(f"an epoch, {name}", ours, _epochs(_peer(pairs, further)), GOAL, note))
    cached = _epochs(_ours(pairs, AugmentConfig(), DecodedCache(root / "later", limit=1 << 31)))
    decoding = _epochs(_ours(pairs, AugmentConfig(), None))
    cases.append(Case("a later epoch against one that decodes", cached, decoding, CACHE_GOAL, "both denseg"))
    return cases


def _epochs(batches: Callable[[int], Any]) -> Callable[[], None]:
    """Make a function that runs the next epoch; the first call fills what is kept."""
    done = [0]

    def run() -> None:
        count = sum(1 for _ in batches(done[0]))
        if count != PAIRS // BATCH:
            raise RuntimeError(f"{count} batches came, not {PAIRS // BATCH}")
        done[0] += 1

    return run


def _ours(pairs: Sequence[Pair], further: AugmentConfig, cache: DecodedCache | None) -> Callable[[int], Any]:
    dataset = SegmentationDataset(
        pairs,
        encoding=MaskEncoding.identity(11),
        normalization=Normalization.imagenet(),
        ignore_index=255,
        augmentation=Augmentation(further=further),
        crop=(CROP, CROP),
        cache=cache,
    )
    return make_loader(dataset, batch_size=BATCH, shuffle=True, workers=WORKERS).epoch


def _peer(pairs: Sequence[Pair], further: AugmentConfig) -> Callable[[int], Any]:
    import albumentations as A
    import cv2
    from albumentations.pytorch import ToTensorV2

    steps: list[Any] = [
        A.RandomScale((-0.5, 1.0), p=1),
        A.PadIfNeeded(CROP, CROP, border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=255),
        A.RandomCrop(CROP, CROP),
        A.HorizontalFlip(p=0.5),
    ]
    if further != AugmentConfig():
        steps += [
            A.Affine(rotate=(-20, 20), shear=(-5, 5), p=1),
            A.Perspective(scale=(0, 0.1), p=1),
            A.ElasticTransform(alpha=100, sigma=10, p=1),
            A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=1),
            A.RandomGamma((80, 120), p=1),
            A.HueSaturationValue(p=1),
            A.GaussianBlur(sigma_limit=(0.01, 2.0), blur_limit=0, p=1),
            A.GaussNoise(std_range=(0, 0.1), p=1),
        ]
    pipeline = A.Compose([*steps, A.Normalize(), ToTensorV2()])

    class Files(torch.utils.data.Dataset[Any]):
        """Reads a pair and changes it."""

        def __len__(self) -> int:
            return len(pairs)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            cv2.setNumThreads(0)  # as in every loader: workers are the parallelism
            pair = pairs[index]
            image = cv2.cvtColor(cv2.imread(str(pair.image)), cv2.COLOR_BGR2RGB)
            changed = pipeline(image=image, mask=cv2.imread(str(pair.mask), cv2.IMREAD_GRAYSCALE))
            return changed["image"], changed["mask"].long()

    loader = torch.utils.data.DataLoader(
        Files(), batch_size=BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True, drop_last=True
    )
    return lambda epoch: loader


def _write(root: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for index in range(PAIRS):
        coarse = rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(SIZE[::-1], Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(smooth + rng.normal(0, 12, (*SIZE, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(root / "images" / f"{index:04d}.jpg", quality=90)
        labels = np.asarray(Image.fromarray(coarse[..., 0] // 24).resize(SIZE[::-1], Image.Resampling.NEAREST))
        Image.fromarray(labels).save(root / "masks" / f"{index:04d}.png")
