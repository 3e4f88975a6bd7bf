# SPDX-License-Identifier: Apache-2.0
"""``python -m denseg``: the same as the ``denseg`` command."""

from __future__ import annotations

import sys

from denseg.cli import main

__all__: list[str] = []

if __name__ == "__main__":  # worker processes import this file too
    sys.exit(main())
