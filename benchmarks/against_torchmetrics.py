# SPDX-License-Identifier: Apache-2.0
"""The confusion matrix against torchmetrics, counting the same labels."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

from benchmarks.harness import Case

__all__ = ["PEER", "count_cases"]

PEER = f"torchmetrics {version('torchmetrics')}"
GOAL = 1 / 30


def count_cases() -> Iterator[Case]:
    """Make the cases.

    Yields:
        One update of 4 label maps of 512x512, of 150 and of 21 classes.
    """
    import torch
    from torchmetrics.classification import MulticlassJaccardIndex

    from denseg.metrics import ConfusionMatrix

    for classes in (150, 21):
        generator = torch.Generator().manual_seed(0)
        coarse = torch.randint(0, classes, (4, 32, 32), generator=generator)
        target = coarse.repeat_interleave(16, 1).repeat_interleave(16, 2)
        prediction = torch.where(torch.rand(target.shape, generator=generator) < 0.8, target, target.roll(7, 2))
        target = torch.where(torch.rand(target.shape, generator=generator) < 0.05, 255, target)
        ours = ConfusionMatrix(classes)
        theirs = MulticlassJaccardIndex(num_classes=classes, ignore_index=255, average="macro", validate_args=False)
        yield Case(
            name=f"{classes} classes",
            ours=lambda ours=ours, p=prediction, t=target: ours.update(p, t),  # type: ignore[misc]
            peer=lambda theirs=theirs, p=prediction, t=target: theirs.update(p, t),  # type: ignore[misc]
            goal=GOAL if classes == 150 else None,
        )
