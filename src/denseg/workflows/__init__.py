# SPDX-License-Identifier: Apache-2.0
"""Workflows: from a configuration to work done; what the command line calls, and what a Python program may call.

Each command has its module here. ``Segmenter`` is the same for Python, in three calls; it is imported on first use, so
that a command that needs no network does not wait for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from denseg.workflows.segmenter import Segmenter

__all__ = ["Segmenter"]


def __getattr__(name: str) -> Any:
    if name == "Segmenter":
        from denseg.workflows.segmenter import Segmenter

        return Segmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
