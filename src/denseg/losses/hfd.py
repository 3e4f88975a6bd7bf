# SPDX-License-Identifier: Apache-2.0
"""High-level feature discrimination: features of a class are drawn to its centre and away from the others'.

Paper:
    C. Li, W. Kang, S. Zhu, X. Ye, Z. Feng, Y. Ming, "HDNet: Hybrid Distance Network for semantic segmentation",
    Neurocomputing 447 (2021) 129-144. https://doi.org/10.1016/j.neucom.2021.02.045 - HFD loss.
Reference code:
    https://github.com/Anstarc/HDNet (not copied; it has no licence).
Departures from the paper:
    The table is a buffer, so that a checkpoint keeps it. It moves in ``update``, after the optimiser's step, from sums
    over all micro-batches and processes of the step, not inside the backward pass of each.
    The momentum is not recoverable from paper or code; 0.9 is batch norm's usual share of the old value.

Shape letters: B batch, D feature channels, K classes, H and W height and width of the labels, h and w of the features.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from denseg.errors import ShapeError, UsageError
from denseg.losses.pixels import check_pixels, divide, pixel_mass, shrink_target

__all__ = ["HFDLoss"]

Similarity = Literal["dot", "cosine", "distance"]


class HFDLoss(nn.Module):
    """Negative log-likelihood of the softmax over a position's similarities to the centres of the classes.

    Attributes:
        reads: Which field of the model's output it takes.
        table: ``(K, D)`` centres, of unit length once seen.
        seen: ``(K,)`` bool; a class without centre stands in no denominator, and its positions are left out.
    """

    reads: ClassVar[str] = "features"
    table: Tensor
    seen: Tensor
    sums: Tensor
    counts: Tensor

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *,
        ignore_index: int = 255,
        similarity: Similarity = "dot",
        momentum: float = 0.9,
        init: Literal["mean", "random"] = "mean",
    ) -> None:
        """Create the table.

        Args:
            num_classes: K.
            in_channels: D.
            ignore_index: Label that carries no class.
            similarity: ``dot`` (with centres of unit length, as released), ``cosine``, or ``distance`` (negative).
            momentum: Share of the old centre in the moving mean.
            init: ``mean``: a class gets its centre from the first step that shows it, as the paper tells;
                ``random``: all start at the released code's random values.

        Raises:
            UsageError: An option is unknown or out of range.
        """
        super().__init__()
        if similarity not in {"dot", "cosine", "distance"}:
            raise UsageError(f"similarity is 'dot', 'cosine' or 'distance', got {similarity!r}")
        if init not in {"mean", "random"}:
            raise UsageError(f"init is 'mean' or 'random', got {init!r}")
        if not 0 <= momentum <= 1:
            raise UsageError(f"momentum must be in 0..1, got {momentum}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.similarity = similarity
        self.momentum = momentum
        table = torch.zeros(num_classes, in_channels)
        if init == "random":
            nn.init.kaiming_uniform_(table, a=5**0.5)
        self.register_buffer("table", table)
        self.register_buffer("seen", torch.full((num_classes,), init == "random"))
        self.register_buffer("sums", torch.zeros(num_classes, in_channels), persistent=False)
        self.register_buffer("counts", torch.zeros(num_classes), persistent=False)

    def forward(
        self,
        features: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        """Compare every position with the centres; in training, count it for their next move.

        Args:
            features: ``(B, D, h, w)``; computed in float32 at least.
            target: ``(B, H, W)`` int64 in 0..K-1 or ``ignore_index``; labels are picked under the positions.
            weight: ``(B, H, W)`` factor per pixel, at least 0.
            normalizer: What the weighted sum is divided by, in pixels of the target; the sum of the weights of the
                positions that take part where not given.

        Returns:
            The loss, a scalar; 0 as long as no class of the batch has a centre.

        Raises:
            ShapeError: Shapes or dtypes do not fit.
        """
        size = (features.shape[-2], features.shape[-1])
        pixels = target.shape[-2] * target.shape[-1] / max(1, size[0] * size[1])
        if target.ndim == 3 and target.shape[1:] != size:
            target = shrink_target(target, size)  # (B, h, w)
            weight = None if weight is None else shrink_target(weight, size)
        check_pixels(features, target, weight)
        if features.shape[1] != self.table.shape[1]:
            raise ShapeError(
                f"HFDLoss was built for features of {self.table.shape[1]} channels, got {features.shape[1]}"
            )
        with torch.autocast(features.device.type, enabled=False):
            rows = features.permute(0, 2, 3, 1).flatten(0, 2)  # (B * h * w, D)
            rows = rows if rows.dtype == torch.float64 else rows.float()
            labels = target.flatten()
            factor = None if weight is None else weight.flatten().to(rows.dtype)
            labelled = labels != self.ignore_index
            if self.training:
                self._count(rows.detach(), labels, labelled, factor)
            taken = labelled & self.seen[torch.where(labelled, labels, 0)]
            scores = self.similarities(rows[taken]).masked_fill(~self.seen, -torch.inf)  # (n, K)
            each = F.cross_entropy(scores, labels[taken], reduction="none")
            mass = rows.new_tensor(float(each.numel()))
            if factor is not None:
                each = each * factor[taken]
                mass = factor[taken].sum()
            total = each.sum() + 0 * rows[:0].sum()  # differentiable also where no position takes part
        return divide(total, mass) if normalizer is None else divide(pixels * total, normalizer)

    def similarities(self, rows: Tensor) -> Tensor:
        """Compare features with all centres.

        Args:
            rows: ``(n, D)``.

        Returns:
            ``(n, K)``, larger for more alike.
        """
        table = self.table.to(rows.dtype)
        if self.similarity == "distance":
            return -torch.cdist(rows, table)
        return (F.normalize(rows, dim=1) if self.similarity == "cosine" else rows) @ table.T

    def mass(self, target: Tensor, *, weight: Tensor | None = None) -> Tensor:
        """See ``pixel_mass``: the sum of the weights of the labelled pixels."""
        return pixel_mass(target, ignore_index=self.ignore_index, weight=weight)

    @torch.no_grad()
    def update(self) -> None:
        """Move the centres of the classes that were met since the last call, on all processes alike."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.sums)
            dist.all_reduce(self.counts)
        met = self.counts > 0
        means = self.sums / self.counts.clamp_min(torch.finfo(self.counts.dtype).tiny).unsqueeze(1)
        moved = torch.where(self.seen.unsqueeze(1), torch.lerp(means, self.table, self.momentum), means)
        self.table.copy_(torch.where(met.unsqueeze(1), F.normalize(moved, dim=1), self.table))
        self.seen.logical_or_(met)
        self.sums.zero_()
        self.counts.zero_()

    @torch.no_grad()
    def _count(self, rows: Tensor, labels: Tensor, labelled: Tensor, factor: Tensor | None) -> None:
        share = labelled.to(self.sums.dtype) if factor is None else labelled * factor.to(self.sums.dtype)
        index = torch.where(labelled, labels, 0)
        # Apart first: batches of one process then add up like those of several, to the bit.
        batch = torch.zeros_like(self.sums).index_add_(0, index, rows.to(self.sums.dtype) * share.unsqueeze(1))
        self.sums.add_(batch)
        self.counts.index_add_(0, index, share)
