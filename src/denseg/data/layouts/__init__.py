# SPDX-License-Identifier: Apache-2.0
"""Public data sets as they are unpacked: one file each, recognised by their folders, with class names and colours."""

from __future__ import annotations
