# SPDX-License-Identifier: Apache-2.0
"""Data sets that are drawn, with exact masks."""

from __future__ import annotations

__all__: list[str] = []
