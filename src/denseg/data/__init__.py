# SPDX-License-Identifier: Apache-2.0
"""From a folder of pictures and masks to what a network trains on.

Import from the modules; this package imports nothing by itself, so that reading pictures costs no torch.
"""

from __future__ import annotations

__all__: list[str] = []
