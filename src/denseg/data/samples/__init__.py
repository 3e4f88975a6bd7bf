# SPDX-License-Identifier: Apache-2.0
"""Pairs of files to batches: read, cached, warped, normalized, in an order that the seed decides."""

from __future__ import annotations

__all__: list[str] = []
