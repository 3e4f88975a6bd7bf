# SPDX-License-Identifier: Apache-2.0
"""``denseg predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from denseg.cli.output import (
    CRFOption,
    DeviceOption,
    ExactOption,
    FlipOption,
    JsonOption,
    OverlapOption,
    RunArgument,
    ScalesOption,
    TileOption,
    TurnsOption,
    emit,
    parse_scales,
    parse_thresholds,
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
    exact: ExactOption = False,
    scales: ScalesOption = "1",
    flip: FlipOption = False,
    turns: TurnsOption = False,
    crf: CRFOption = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            "--threshold",
            metavar="CLASS=P",
            help="Label CLASS where its probability is at least P; repeatable.",
            show_default=False,
        ),
    ] = None,
    fill_holes: Annotated[
        int | None,
        typer.Option("--fill-holes", metavar="N", min=0, help="Fill holes of up to N pixels.", show_default=False),
    ] = None,
    min_area: Annotated[
        int | None,
        typer.Option("--min-area", metavar="N", min=0, help="Remove regions below N pixels.", show_default=False),
    ] = None,
    regions: Annotated[
        Path | None,
        typer.Option(
            "--regions", metavar="FILE", help="Measure every region into a .csv or .geojson.", show_default=False
        ),
    ] = None,
    instances: Annotated[
        str | None,
        typer.Option(
            "--instances",
            metavar="CLASS",
            help="Tell touching objects of CLASS apart: DIR/instances/STEM.tif.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            "--engine", metavar="NAME", help="auto (the fastest that gives torch's labels), torch, onnx or openvino."
        ),
    ] = "auto",
    precision: Annotated[
        str, typer.Option("--precision", metavar="NAME", help="float32, or bf16: faster, and the changed labels told.")
    ] = "float32",
    variance: Annotated[
        bool, typer.Option("--variance", help="Write DIR/variance/STEM.tif: where scales, flips and turns disagree.")
    ] = False,
    uncertainty: Annotated[
        bool,
        typer.Option("--uncertainty", help="Write DIR/uncertainty/STEM.tif: entropy, margin, variance of views."),
    ] = False,
    mc_dropout: Annotated[
        int,
        typer.Option("--mc-dropout", metavar="N", min=0, help="Add the variance over N networks with dropout on."),
    ] = 0,
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
    steps: dict[str, Any] = {"thresholds": parse_thresholds(threshold)} if threshold else {}
    steps |= {
        key: value for key, value in {"fill_holes": fill_holes, "min_area": min_area}.items() if value is not None
    }
    if crf is not None:
        from denseg.inference.crf import find_crf

        steps["crf"] = find_crf(crf)
    from denseg.inference.strategy import TileOptions
    from denseg.workflows.labelling import Extras
    from denseg.workflows.predict import predict as run_prediction

    extras = Extras(
        engine,
        precision,
        probabilities,
        variance,
        uncertainty=uncertainty or mc_dropout > 0,
        dropout=mc_dropout,
        instances=instances,
    )

    with progress_bar("labelling") as progress:
        result = run_prediction(
            run,
            inputs,
            out=out,
            tile=tile,
            overlap=overlap,
            scales=factors,
            flip=flip,
            turns=turns,
            extras=extras,
            options=TileOptions(mode="exact") if exact else None,
            postprocessing=steps,
            regions=regions,
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
