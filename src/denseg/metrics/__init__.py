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
from denseg.metrics.components import Continuity, SizeRecall, continuity, size_recall
from denseg.metrics.confusion import ConfusionMatrix, Scores, majority_baseline, scores_from_counts
from denseg.metrics.interval import bootstrap_interval
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
    "PartitionScores",
    "Reliability",
    "Scores",
    "SizeRecall",
    "adapted_rand_error",
    "bootstrap_interval",
    "boundary_counts",
    "boundary_f_score",
    "boundary_iou",
    "brier_score",
    "continuity",
    "expected_calibration_error",
    "hausdorff",
    "majority_baseline",
    "objects_of",
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
