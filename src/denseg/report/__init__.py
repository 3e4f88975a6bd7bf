# SPDX-License-Identifier: Apache-2.0
"""Pages: one HTML file that tells a run, a check of a data folder, or a comparison. Imports no torch."""

from __future__ import annotations

from denseg.report.check_page import write_check_page
from denseg.report.compare_page import write_compare_page
from denseg.report.run_page import write_report

__all__ = ["write_check_page", "write_compare_page", "write_report"]
