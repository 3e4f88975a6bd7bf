# SPDX-License-Identifier: Apache-2.0
"""Metrics: each with its averaging stated, none with hidden state but its counts."""

from __future__ import annotations

from denseg.metrics.boundary import (
    ClassScores,
    boundary_counts,
    boundary_f_score,
    boundary_iou,
    hausdorff,
    trimap,
    trimap_counts,
)
from denseg.metrics.confusion import ConfusionMatrix, Scores, majority_baseline, scores_from_counts
from denseg.metrics.interval import bootstrap_interval, bootstrap_scores

__all__ = [
    "ClassScores",
    "ConfusionMatrix",
    "Scores",
    "bootstrap_interval",
    "bootstrap_scores",
    "boundary_counts",
    "boundary_f_score",
    "boundary_iou",
    "hausdorff",
    "majority_baseline",
    "scores_from_counts",
    "trimap",
    "trimap_counts",
]
