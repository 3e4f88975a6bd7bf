# SPDX-License-Identifier: Apache-2.0
"""The run folder: what a training leaves behind, written and read by name. Imports no torch."""

from __future__ import annotations

from denseg.runs.environment import describe_environment
from denseg.runs.folder import RUN_FORMAT, RunFolder, RunStatus
from denseg.runs.lock import lock_run
from denseg.runs.names import latest_run_path, next_run_path
from denseg.runs.tables import SplitRow, metric_columns

__all__ = [
    "RUN_FORMAT",
    "RunFolder",
    "RunStatus",
    "SplitRow",
    "describe_environment",
    "latest_run_path",
    "lock_run",
    "metric_columns",
    "next_run_path",
]
