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
from denseg.metrics.calibration import Calibration, Reliability, brier_score, expected_calibration_error
from denseg.metrics.compare import PairedTest, paired_bootstrap
from denseg.metrics.components import Continuity, SizeRecall, continuity, size_recall
from denseg.metrics.confusion import (
    ConfusionMatrix,
    Scores,
    dice_from_counts,
    majority_baseline,
    per_image_scores,
    scores_from_counts,
)
from denseg.metrics.interval import Score, bootstrap_interval, bootstrap_scores
from denseg.metrics.segments import (
    PartitionScores,
    adapted_rand_error,
    objects_of,
    pixel_error,
    thin_borders,
    v_info,
    v_rand,
    warping_error,
)

__all__ = [
    "Calibration",
    "ClassScores",
    "ConfusionMatrix",
    "Continuity",
    "PairedTest",
    "PartitionScores",
    "Reliability",
    "Score",
    "Scores",
    "SizeRecall",
    "adapted_rand_error",
    "bootstrap_interval",
    "bootstrap_scores",
    "boundary_counts",
    "boundary_f_score",
    "boundary_iou",
    "brier_score",
    "continuity",
    "dice_from_counts",
    "expected_calibration_error",
    "hausdorff",
    "majority_baseline",
    "objects_of",
    "paired_bootstrap",
    "per_image_scores",
    "pixel_error",
    "scores_from_counts",
    "size_recall",
    "thin_borders",
    "trimap",
    "trimap_counts",
    "v_info",
    "v_rand",
    "warping_error",
]
