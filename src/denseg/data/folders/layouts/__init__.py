# SPDX-License-Identifier: Apache-2.0
"""Public data sets as they are unpacked: one file each, recognised by their folders, with class names and colours."""

from __future__ import annotations

__all__: list[str] = []  # the catalog is the door; naming the layouts here would import them in a circle
