# SPDX-License-Identifier: Apache-2.0
"""``denseg compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from denseg.cli.output import DataArgument, JsonOption, SettingsOption, emit

__all__ = ["compare"]


def compare(  # noqa: PLR0913 - one parameter per option
    data: DataArgument,
    models: Annotated[
        str, typer.Option("--models", metavar="A,B,…", help="Catalog names; NAME@BACKBONE gives one its own backbone.")
    ] = "",
    layers: Annotated[
        str, typer.Option("--layers", metavar="A,B,…", help="Context layers, each on the same backbone.")
    ] = "",
    losses: Annotated[
        str, typer.Option("--losses", metavar="A,B,…", help="Each model with each loss; sums as cross_entropy+dice.")
    ] = "",
    recipes: Annotated[str, typer.Option("--recipes", metavar="A,B,…", help="Names or files of recipes.")] = "",
    backbone: Annotated[
        str | None, typer.Option("--backbone", metavar="NAME", help="For all that take one.", show_default=False)
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="TIME", help="Time of each training, e.g. 20m.", show_default=False),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", metavar="N", min=1, help="Length of each instead.", show_default=False)
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", metavar="N", min=1, help="Trainings of each; 3 or more test the way to train.")
    ] = 1,
    settings: SettingsOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The folder; runs/DATA-compare if omitted.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Train several models on the same data, split, seeds and budget; one table and report, with tests."""
    from denseg.workflows.compare import compare as run
    from denseg.workflows.compare import plan_candidates

    named = [[part.strip() for part in text.split(",") if part.strip()] for text in (models, layers, losses, recipes)]
    result = run(
        data,
        plan_candidates(models=named[0], layers=named[1], losses=named[2], recipes=named[3], backbone=backbone),
        out=out,
        seeds=seeds,
        budget=budget,
        epochs=epochs,
        settings=settings or (),
        device=device,
        message=lambda text: typer.echo(text, err=True),
    )
    for problem in result.problems():
        typer.echo(f"error: {problem}", err=True)
    emit(result.lines(), result.to_json(), json_path)
    if not result.ok:
        raise typer.Exit(1)
