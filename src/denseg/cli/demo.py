# SPDX-License-Identifier: Apache-2.0
"""``denseg demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from denseg.cli.output import JsonOption, emit

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where everything is written.")] = Path("demo"),
    json_path: JsonOption = None,
) -> None:
    """Train, evaluate, predict and report on an embedded data set; no download, under 3 minutes on 2 cores."""
    from denseg.workflows.demo import run_demo

    result = run_demo(out)
    emit(result.lines(), result.to_json(), json_path)
