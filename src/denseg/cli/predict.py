# SPDX-License-Identifier: Apache-2.0
"""``denseg predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from denseg.cli.output import (
    DeviceOption,
    FlipOption,
    JsonOption,
    OverlapOption,
    RunArgument,
    ScalesOption,
    TileOption,
    emit,
    parse_scales,
)
from denseg.cli.progress import progress_bar

__all__ = ["predict"]


def predict(  # noqa: PLR0913 - one parameter per option
    run: RunArgument,
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Images, folders, or patterns in quotes.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the labels go.", show_default=False)],
    tile: TileOption = None,
    overlap: OverlapOption = None,
    scales: ScalesOption = "1",
    flip: FlipOption = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write DIR/probabilities/STEM.tif, one band per class, too.")
    ] = False,
    max_pixels: Annotated[
        int | None,
        typer.Option("--max-pixels", min=1, help="Refuse larger images, TIFF aside.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Label again what DIR already holds.")] = False,
    device: DeviceOption = "auto",
    json_path: JsonOption = None,
) -> None:
    """Label images of any size: DIR/STEM.png in the original size and a colour overlay in DIR/overlay."""
    factors = parse_scales(scales)
    from denseg.workflows.predict import predict as run_prediction

    with progress_bar("labelling") as progress:
        result = run_prediction(
            run,
            inputs,
            out=out,
            tile=tile,
            overlap=overlap,
            scales=factors,
            flip=flip,
            probabilities=probabilities,
            max_pixels=max_pixels,
            overwrite=overwrite,
            device=device,
            progress=progress,
        )
    for problem in result.problems():
        typer.echo(f"error: {problem}", err=True)
    emit(result.lines(), result.to_json(), json_path)
    if not result.ok:
        raise typer.Exit(1)
