# SPDX-License-Identifier: Apache-2.0
"""The ``denseg`` command: one thin file per command, each parses, calls one workflow, prints.

Data goes to stdout, progress to stderr. Exit codes: 0 done, 1 the input is at fault, 2 wrong usage, 3 interrupted.
Importing this package imports no torch; a command imports its workflow when it runs.
"""

from __future__ import annotations

from denseg.cli.app import app, main

__all__ = ["app", "main"]
