# SPDX-License-Identifier: Apache-2.0
"""The mask doctor: reads every picture and mask, says what is wrong, and what it will do."""

from __future__ import annotations

__all__: list[str] = []
