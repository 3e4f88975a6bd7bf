# SPDX-License-Identifier: Apache-2.0
"""What a data folder holds: its layout, its pairs, its splits."""

from __future__ import annotations

__all__: list[str] = []
