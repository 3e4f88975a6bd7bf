# SPDX-License-Identifier: Apache-2.0
"""Files to arrays: pictures and masks as they are stored, whole or by window."""

from __future__ import annotations

__all__: list[str] = []
