# SPDX-License-Identifier: Apache-2.0
"""The training loop: from a configuration and data to a run folder with checkpoints and scores.

Import from the modules; this package imports nothing by itself.
"""

from __future__ import annotations

__all__: list[str] = []
