# SPDX-License-Identifier: Apache-2.0
"""``denseg eval``."""

from __future__ import annotations

from typing import Annotated

import typer

from denseg.cli.output import (
    DataArgument,
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
    parse_strides,
)
from denseg.cli.progress import progress_bar

__all__ = ["evaluate"]


def evaluate(  # noqa: PLR0913 - the options of the command
    run: RunArgument,
    data: DataArgument,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="train, val, test or all; val if there is one.")
    ] = None,
    tile: TileOption = None,
    overlap: OverlapOption = None,
    exact: ExactOption = False,
    scales: ScalesOption = "1",
    flip: FlipOption = False,
    turns: TurnsOption = False,
    crf: Annotated[
        str | None,
        typer.Option(
            "--crf",
            metavar="[NAME|search]",
            help="Sharpen labels by a dense CRF: a paper's parameters (deeplab_v2 if omitted); search stores the best.",
            show_default=False,
        ),
    ] = None,
    tune: Annotated[
        bool,
        typer.Option("--tune", help="Find threshold, holes to fill, regions to drop; store them in the checkpoint."),
    ] = False,
    output_stride: Annotated[
        str | None,
        typer.Option(
            "--output-stride",
            metavar="N[,N…]",
            help="Change the backbone's output stride, e.g. 8; several give a table of accuracy, time and memory.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    json_path: JsonOption = None,
) -> None:
    """Score a model on a folder: mIoU with its interval and baseline, and every class."""
    from denseg.inference.strategy import TileOptions
    from denseg.workflows.evaluate import evaluate as score

    strides = parse_strides(output_stride)
    if len(strides) > 1:
        from denseg.workflows.strides import compare_strides

        with progress_bar("scoring") as progress:
            table = compare_strides(
                run,
                data,
                strides,
                split=split,
                tile=tile,
                overlap=overlap,
                scales=parse_scales(scales),
                flip=flip,
                device=device,
                progress=progress,
            )
        emit(table.lines(), table.to_json(), json_path)
        return
    with progress_bar("scoring") as progress:
        result = score(
            run,
            data,
            split=split,
            tile=tile,
            overlap=overlap,
            scales=parse_scales(scales),
            flip=flip,
            turns=turns,
            crf=crf,
            tune=tune,
            options=TileOptions(mode="exact") if exact else None,
            output_stride=strides[0] if strides else None,
            device=device,
            progress=progress,
        )
    emit(result.lines(), result.to_json(), json_path)
