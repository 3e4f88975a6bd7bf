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
from denseg.metrics.compare import PairedTest, adjust_p_values, paired_bootstrap, paired_ratios, seeds_test
from denseg.metrics.components import Continuity, SizeRecall, continuity, size_recall
from denseg.metrics.confusion import (
    ConfusionMatrix,
    Scores,
    dice_from_counts,
    majority_baseline,
    per_image_scores,
    scores_from_counts,
)
from denseg.metrics.context import ContextJump, context_jump
from denseg.metrics.conventions import Convention, scores_by_convention
from denseg.metrics.features import FeatureScatter, feature_compactness
from denseg.metrics.interval import (
    Score,
    bootstrap_classes,
    bootstrap_interval,
    bootstrap_ratios,
    bootstrap_scores,
    sequence_blocks,
)
from denseg.metrics.risk import RiskCoverage, RiskCurve
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
from denseg.metrics.temperature import apply_temperature, fit_temperature, negative_log_likelihood

__all__ = [
    "Calibration",
    "ClassScores",
    "ConfusionMatrix",
    "ContextJump",
    "Continuity",
    "Convention",
    "FeatureScatter",
    "PairedTest",
    "PartitionScores",
    "Reliability",
    "RiskCoverage",
    "RiskCurve",
    "Score",
    "Scores",
    "SizeRecall",
    "adapted_rand_error",
    "adjust_p_values",
    "apply_temperature",
    "bootstrap_classes",
    "bootstrap_interval",
    "bootstrap_ratios",
    "bootstrap_scores",
    "boundary_counts",
    "boundary_f_score",
    "boundary_iou",
    "brier_score",
    "context_jump",
    "continuity",
    "dice_from_counts",
    "expected_calibration_error",
    "feature_compactness",
    "fit_temperature",
    "hausdorff",
    "majority_baseline",
    "negative_log_likelihood",
    "objects_of",
    "paired_bootstrap",
    "paired_ratios",
    "per_image_scores",
    "pixel_error",
    "scores_by_convention",
    "scores_from_counts",
    "seeds_test",
    "sequence_blocks",
    "size_recall",
    "thin_borders",
    "trimap",
    "trimap_counts",
    "v_info",
    "v_rand",
    "warping_error",
]
