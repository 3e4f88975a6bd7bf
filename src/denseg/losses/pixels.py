# SPDX-License-Identifier: Apache-2.0
"""What every loss over pixels needs: checked shapes, the mass that a mean divides by, and labels at the heatmap's size.

Shape letters: B batch, K classes, H and W height and width of scores and labels, h and w of the heatmap.
"""

from __future__ import annotations

import torch
from torch import Tensor

from denseg.errors import ShapeError

__all__ = ["check_pixels", "divide", "pixel_mass", "shrink_target", "single"]


def check_pixels(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
    """Refuse shapes that would broadcast silently.

    Args:
        logits: ``(B, K, H, W)``, floating point.
        target: ``(B, H, W)`` int64.
        weight: ``(B, H, W)``, floating point, or ``None``.

    Raises:
        ShapeError: Shapes or dtypes differ from these.
    """
    if logits.ndim != 4 or not logits.is_floating_point():
        raise ShapeError(f"logits must be floating point (B, K, H, W), got {logits.dtype} {tuple(logits.shape)}")
    size = (logits.shape[0], *logits.shape[2:])
    if target.shape != size or target.dtype != torch.int64:
        raise ShapeError(
            f"target must be int64 {size} for logits {tuple(logits.shape)}, got {target.dtype} {tuple(target.shape)}"
        )
    if weight is not None and (weight.shape != size or not weight.is_floating_point()):
        raise ShapeError(
            f"weight must be floating point {size} for logits {tuple(logits.shape)}, "
            f"got {weight.dtype} {tuple(weight.shape)}"
        )


def single(scores: Tensor) -> Tensor:
    """Bring scores of half precision to float32, where sums over pixels and powers of e hold.

    Args:
        scores: Any shape, floating point.

    Returns:
        The same values in float32, or as they came where they have that or more.
    """
    return scores.float() if scores.dtype in {torch.float16, torch.bfloat16} else scores


def pixel_mass(
    target: Tensor, *, ignore_index: int, class_weight: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Sum the weights of the labelled pixels: what a weighted mean divides by.

    Masses of micro-batches and of processes add up, so that dividing by their sum makes accumulated or distributed
    training equal to one large batch.

    Args:
        target: ``(B, H, W)`` int64 in 0..K-1 or ``ignore_index``.
        ignore_index: Label that carries no class.
        class_weight: ``(K,)`` factor per class.
        weight: ``(B, H, W)`` factor per pixel.

    Returns:
        A scalar, float32 (float64 where weights are); the number of labelled pixels without weights.
    """
    valid = target != ignore_index
    if class_weight is None and weight is None:
        return valid.sum().float()
    factor = valid.float() if class_weight is None else class_weight[torch.where(valid, target, 0)] * valid
    if weight is not None:
        factor = factor * weight
    return factor.sum()


def divide(total: Tensor, mass: Tensor | float) -> Tensor:
    """Divide a sum by its mass; a mass of 0 gives 0.

    Args:
        total: The weighted sum, a scalar, 0 where the mass is.
        mass: The sum of the weights, at least 0.

    Returns:
        The mean, a scalar.
    """
    mass = torch.as_tensor(mass, dtype=total.dtype, device=total.device)
    return total / torch.where(mass > 0, mass, 1)


def shrink_target(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Pick the label (or weight) under the centre of every heatmap position.

    Networks of stride s see input pixel ``s * i`` in the middle of position ``i``, so rows and columns 0, s, 2s, … are
    picked: Caffe's ``Shrink``, which DeepLab v1 and v2 train with.

    Args:
        values: ``(B, H, W)``, any dtype.
        size: ``(h, w)`` of the heatmap, not larger than ``(H, W)``.

    Returns:
        ``(B, h, w)``.
    """
    rows, columns = (_centres(length, count) for length, count in zip(values.shape[1:], size, strict=True))
    return values[:, rows.to(values.device)][:, :, columns.to(values.device)]


def _centres(length: int, count: int) -> Tensor:
    stride = 1
    while -(-length // stride) > count:
        stride *= 2
    if -(-length // stride) == count:
        return torch.arange(count) * stride
    return ((torch.arange(count) + 0.5) * (length / count)).floor().long()  # no power of two: centres of equal cells
