# SPDX-License-Identifier: Apache-2.0
"""``denseg inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from denseg.cli.output import DeviceOption, JsonOption, SettingsOption, emit, parse_size
from denseg.cli.progress import progress_bar
from denseg.errors import UsageError

__all__ = ["inspect"]


def inspect(  # noqa: PLR0913 - the options of the command
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Catalog name, see `denseg models`.", show_default=False)
    ] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", metavar="NAME", help="timm name; the model's own default if omitted.")
    ] = None,
    size: Annotated[str, typer.Option("--size", metavar="HxW", help="Input size that the MACs are counted at.")] = (
        "512x512"
    ),
    num_classes: Annotated[
        int, typer.Option("--num-classes", metavar="N", min=1, help="Classes of the last layer.")
    ] = 21,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", metavar="FILE", help="Inspect what a run or checkpoint holds.")
    ] = None,
    settings: SettingsOption = None,
    layers: Annotated[bool, typer.Option("--layers", help="Print one line per layer too.")] = False,
    kernels: Annotated[
        bool, typer.Option("--kernels", help="Mean weight per tap of the square kernels; --set model.pretrained=true.")
    ] = False,
    image: Annotated[
        Path | None,
        typer.Option("--image", metavar="FILE", help="Draw what the context layers of --checkpoint make of an image."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the pictures.")] = Path("inspection"),
    pixel: Annotated[
        str | None,
        typer.Option("--pixel", metavar="ROW,COL", help="Explain the class of this pixel of --image; else the middle."),
    ] = None,
    label: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="The class to follow there; else the predicted one.")
    ] = None,
    latency: Annotated[bool, typer.Option("--latency", help="Time one image of --size, and tell its memory.")] = False,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DATA", help="Say whether it sees enough for the objects of this folder."),
    ] = None,
    frequency: Annotated[
        bool,
        typer.Option("--frequency", help="Score --checkpoint on --data with low, middle and high frequencies removed."),
    ] = False,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Score --frequency on N images.")] = 50,
    device: DeviceOption = "auto",
    json_path: JsonOption = None,
) -> None:
    """Say what a model costs and sees: parameters, multiply-adds (MACs), output stride, receptive field."""
    height_and_width = parse_size(size)
    from denseg.workflows.inspect import inspect_model

    with progress_bar("scoring" if frequency else "inspecting") as progress:
        inspection = inspect_model(
            model,
            backbone=backbone,
            size=height_and_width,
            num_classes=num_classes,
            checkpoint=checkpoint,
            settings=settings or (),
            kernels=kernels,
            image=image,
            out=out,
            pixel=None if pixel is None else _pixel(pixel),
            label=label,
            latency=latency,
            data=data,
            frequency=frequency,
            limit=limit,
            device=device,
            progress=progress,
        )
    emit(inspection.lines(layers=layers), inspection.to_json(), json_path)


def _pixel(text: str) -> tuple[int, int]:
    """Read row and column of a pixel, for example ``120,340``."""
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"--pixel takes ROW,COL, for example 120,340; got {text!r}")
    return int(parts[0]), int(parts[1])
