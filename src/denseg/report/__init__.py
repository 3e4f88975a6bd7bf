# SPDX-License-Identifier: Apache-2.0
"""The report: one HTML file that tells a run, made from the files of its folder. Imports no torch."""

from __future__ import annotations

from denseg.report.run_page import write_report

__all__ = ["write_report"]
