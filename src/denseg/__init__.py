# SPDX-License-Identifier: Apache-2.0
"""denseg: semantic segmentation from FCN to HDNet, each model faithful to its paper."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
