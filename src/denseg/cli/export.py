# SPDX-License-Identifier: Apache-2.0
"""``denseg export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from denseg.cli.output import JsonOption, RunArgument, emit

__all__ = ["export"]


def export(
    run: RunArgument,
    kind: Annotated[
        str, typer.Option("--format", metavar="NAME", help="onnx, openvino or pt2 (torch.export).")
    ] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="PATH", help="File or folder; RUN/export if omitted.", show_default=False),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            "--images",
            metavar="INPUT",
            help="Pictures to compare with torch on; repeatable. The run's own if omitted.",
            show_default=False,
        ),
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Write a model for other programs: one file with normalisation, classes, tiles and calibration inside."""
    from denseg.workflows.export import export as write

    result = write(run, format=kind, out=out, images=images or ())
    emit(result.lines(), result.to_json(), json_path)
    if not result.parity.ok:
        typer.echo("error: the exported model gives other labels than torch; do not use it", err=True)
        raise typer.Exit(1)
