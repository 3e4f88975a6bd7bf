# SPDX-License-Identifier: Apache-2.0
"""One pass over a split in evaluation mode.

Shape letters: B batch, K classes, C bands, H and W image height and width, h and w of what a model with a margin gives.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from denseg.inference.canvas import run_on_canvas
from denseg.inference.strategy import Strategy
from denseg.inference.tiled import TiledModel, model_parts
from denseg.metrics import scores_from_counts
from denseg.ops import center_crop, confusion_counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from denseg.losses import CompositeLoss
    from denseg.metrics import Scores
    from denseg.models import SegmentationModel
    from denseg.types import SegmentationOutput

__all__ = ["Scorer", "Validation", "crop_target", "validate"]

WHOLE_PIXELS = 1 << 20
"""Images up to this size are scored whole without asking how much memory the network takes."""


@dataclass
class Validation:
    """What one pass over a split counted.

    Attributes:
        counts: ``(K, K)`` int64, rows are the truth.
        loss_sums: Per loss, its sum over labelled pixels.
        loss_masses: Per loss, what that sum divides by.
    """

    counts: Tensor
    loss_sums: Tensor
    loss_masses: Tensor

    def scores(self) -> Scores:
        """Compute all scores."""
        return scores_from_counts(self.counts.cpu().numpy())

    def loss(self, weights: Sequence[float]) -> float | None:
        """Give the weighted sum of the mean losses; ``None`` where no pixel is labelled."""
        masses, sums = self.loss_masses.tolist(), self.loss_sums.tolist()
        if not any(mass > 0 for mass in masses):
            return None
        value = sum(w * s / m for w, s, m in zip(weights, sums, masses, strict=True) if m > 0)
        return float(value) if math.isfinite(value) else None


class Scorer:
    """Runs a network on validation images: whole, or in tiles where a large image would not fit into memory.

    Attributes:
        model: The network.
    """

    def __init__(self, model: SegmentationModel) -> None:
        """Keep the network; what tiles need is measured when the first large image comes.

        Args:
            model: The network, on its device.
        """
        self.model = model
        self._tiled: TiledModel | None = None

    def score(self, images: Tensor) -> SegmentationOutput | None:
        """Score images whole.

        Args:
            images: ``(B, C, H, W)``, normalised, on the device.

        Returns:
            The output, logits ``(B, K, H, W)``; ``None`` where the images are too large for that.
        """
        height, width = images.shape[-2:]
        if height * width > WHOLE_PIXELS and self._strategy(height, width).mode != "whole":
            return None
        return run_on_canvas(self.model, images, self.model.geometry)

    def label(self, images: Tensor) -> Tensor:
        """Label large images in tiles.

        Args:
            images: ``(B, C, H, W)``, normalised.

        Returns:
            ``(B, H, W)`` int64.
        """
        tiled, strategy = self._tiles(), self._strategy(*images.shape[-2:])
        labels = [tiled.labels(image.cpu().numpy(), strategy=strategy) for image in images]
        return torch.as_tensor(np.stack(labels).astype(np.int64), device=images.device)  # (B, H, W)

    def _tiles(self) -> TiledModel:
        if self._tiled is None:
            self._tiled = TiledModel(self.model, **model_parts(self.model))
        return self._tiled

    def _strategy(self, height: int, width: int) -> Strategy:
        # What a pixel reaches is a fact of the network: measured without the rounding of mixed precision.
        with torch.autocast(next(self.model.parameters()).device.type, enabled=False):
            return self._tiles().strategy(height, width)


@torch.no_grad()
def validate(
    scorer: Scorer,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    loss: CompositeLoss,
    device: torch.device,
    memory_format: torch.memory_format = torch.contiguous_format,
    on_batch: Callable[[int], None] | None = None,
    on_labels: Callable[[Tensor, Tensor], None] | None = None,
) -> Validation:
    """Count a split in evaluation mode; the caller puts the model back into training mode.

    Images in tiles are counted but have no part in the loss, which needs the scores of a whole image.

    Args:
        scorer: The network; batches move to ``device``.
        batches: What an evaluation loader gives.
        loss: The training loss, without its auxiliary part.
        device: Where to compute.
        memory_format: Of the images.
        on_batch: Called after each batch with the number of its images; may raise to stop.
        on_labels: Called with the indices of the images of a batch and their predicted labels ``(B, H, W)``.

    Returns:
        The counts.
    """
    scorer.model.eval()
    at_input = copy.copy(loss)  # the same members; where training compares at the heatmap, this still sees every pixel
    at_input.loss_at = "input"
    classes, members = loss.num_classes, len(loss.members)
    counts = torch.zeros((classes, classes), dtype=torch.int64, device=device)
    sums = torch.zeros(members, dtype=torch.float64, device=device)
    masses = torch.zeros(members, dtype=torch.float64, device=device)
    for batch in batches:
        images = batch["images"].to(device, memory_format=memory_format, non_blocking=True)
        target = batch["target"].to(device, non_blocking=True)
        output = scorer.score(images)
        labels = scorer.label(images) if output is None else output.logits.max(dim=1).indices
        counts += confusion_counts(labels, target, classes, loss.ignore_index)
        if output is not None:
            maps = {name: batch[name].to(device) for name in batch if name not in {"images", "target", "index"}}
            parts = at_input(output._replace(aux_logits=()), target, **maps).parts
            mass = at_input.mass(target, size=None, **maps).double()
            sums += torch.stack([parts[name] for name in loss.members]).double() * mass
            masses += mass
        if on_labels is not None:
            on_labels(batch["index"], labels)
        if on_batch is not None:
            on_batch(len(target))
    return Validation(counts, sums, masses)


def crop_target(values: Tensor, logits: Tensor) -> Tensor:
    """Cut labels, or another per-pixel map, to what a model with a margin scores.

    Args:
        values: ``(B, H, W)``.
        logits: ``(B, K, h, w)``, not larger.

    Returns:
        ``(B, h, w)``, a view.
    """
    size = (logits.shape[-2], logits.shape[-1])
    return values if values.shape[-2:] == size else center_crop(values, size)
