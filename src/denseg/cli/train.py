# SPDX-License-Identifier: Apache-2.0
"""``denseg train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from denseg.cli.output import DataArgument, JsonOption, SettingsOption, UnpairedOption, emit

__all__ = ["train"]


def train(  # noqa: PLR0913 - one parameter per option
    data: DataArgument,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Catalog name, see `denseg models`.")
    ] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", metavar="NAME", help="timm name.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", metavar="FILE", help="YAML file, or the name of one that denseg has; auto if omitted."
        ),
    ] = None,
    settings: SettingsOption = None,
    unpaired: UnpairedOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="RUN", help="The run folder; runs/DATA-MODEL if omitted.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the run stopped; start it if it is new.")
    ] = False,
    init: Annotated[
        str | None, typer.Option("--init", metavar="WHAT", help="none, imagenet, a run, or a checkpoint file.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="TIME", help="Time for the whole command, such as 30m; decides the epochs."),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            "--folds", metavar="N", help="Train N networks, each held out another part; they predict together."
        ),
    ] = None,
    verify_resume: Annotated[
        bool,
        typer.Option("--verify-resume", help="Train a few steps with and without a stop, and compare; leaves no run."),
    ] = False,
    json_path: JsonOption = None,
) -> None:
    """Train a model on a folder; Ctrl-C saves, --resume goes on."""
    if verify_resume:
        from denseg.workflows.verify import verify_resume as verify

        proof = verify(
            data, model=model, backbone=backbone, recipe=recipe, settings=settings or (), init=init, device=device
        )
        emit(proof.lines(), proof.to_json(), json_path)
        return
    from denseg.workflows.train import train as run

    result = run(
        data,
        model=model,
        backbone=backbone,
        recipe=recipe,
        settings=[*(settings or ()), *([f"data.unpaired={unpaired}"] if unpaired is not None else [])],
        out=out,
        resume=resume,
        init=init,
        device=device,
        budget=budget,
        folds=folds,
        progress=True,
    )
    emit(result.lines(), result.to_json(), json_path)
