# SPDX-License-Identifier: Apache-2.0
"""``denseg inspect``: what a model costs, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from denseg.config import load_config
from denseg.errors import UsageError
from denseg.models import MODELS, SegmentationModel, create_model, load_checkpoint, split_parameters
from denseg.models.complexity import Complexity, LayerCost, describe
from denseg.models.figures import FigureCheck, check_figures
from denseg.types import ModelSpec
from denseg.workflows.inspect_features import draw_features
from denseg.workflows.inspect_frequency import FREQUENCY_IMAGES, inspect_frequency
from denseg.workflows.inspect_kernels import inspect_kernels
from denseg.workflows.inspect_pixel import PixelReport, explain_image
from denseg.workflows.inspect_sight import fit_to_data, sight_parts, speed_part
from denseg.workflows.models import header_of

__all__ = ["Inspection", "InspectionPart", "inspect_model"]


class InspectionPart(Protocol):
    """What was asked for besides: a part of the text and of the JSON document."""

    @property
    def key(self) -> str:
        """Name in the JSON document."""

    def lines(self) -> list[str]:
        """Give the part as text for a person."""

    def to_json(self) -> Any:
        """Give the part as JSON values."""


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        spec: Name and arguments of the model.
        size: Height and width at which it was measured, in pixels.
        complexity: Parameters, multiply-adds, output stride, layers.
        backbone_parameters: Those of the backbone.
        paper: ``paper`` and ``url`` of the model.
        figures: The paper's figures beside ours.
        parts: What was asked for besides.
    """

    spec: ModelSpec
    size: tuple[int, int]
    complexity: Complexity
    backbone_parameters: int
    paper: dict[str, str]
    figures: tuple[FigureCheck, ...] = ()
    parts: tuple[InspectionPart, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Give the inspection as JSON values."""
        complexity = self.complexity
        return {
            "model": self.spec.name,
            "arguments": dict(self.spec.arguments),
            "size": list(self.size),
            "parameters": complexity.parameters,
            "trainable_parameters": complexity.trainable,
            "backbone_parameters": self.backbone_parameters,
            "macs": complexity.macs,
            "output_stride": complexity.output_stride,
            "paper": {**self.paper, "figures": [figure.to_json() for figure in self.figures]},
            "layers": [row._asdict() for row in complexity.layers],
            **{part.key: part.to_json() for part in self.parts},
        }

    def lines(self, *, layers: bool = False) -> list[str]:
        """Give the inspection as text for a person.

        Args:
            layers: One line per layer too.

        Returns:
            The lines.
        """
        complexity = self.complexity
        arguments = {key: value for key, value in self.spec.arguments.items() if value is not None}
        head = complexity.parameters - self.backbone_parameters
        lines = [
            f"model          {self.spec.name} ({', '.join(f'{key}={value}' for key, value in arguments.items())})",
            f"paper          {self.paper['paper']} {self.paper['url']}".rstrip(),
            f"parameters     {complexity.parameters:,} ({self.backbone_parameters:,} backbone, {head:,} head)",
            f"MACs           {complexity.macs:,} for one image of {self.size[0]}x{self.size[1]}",
            f"output stride  {complexity.output_stride}",
        ]
        if complexity.trainable != complexity.parameters:
            lines.insert(3, f"learning       {complexity.trainable:,}")
        lines += _figures(self.figures)
        lines += [line for part in self.parts for line in part.lines()]
        return lines + _layers(complexity.layers) if layers else lines


def inspect_model(  # noqa: PLR0913 - the options of the command
    name: str | None = None,
    *,
    backbone: str | None = None,
    size: tuple[int, int] = (512, 512),
    num_classes: int = 21,
    checkpoint: Path | str | None = None,
    settings: Sequence[str] = (),
    kernels: bool = False,
    image: Path | str | None = None,
    out: Path | str = "inspection",
    pixel: tuple[int, int] | None = None,
    label: str | None = None,
    latency: bool = False,
    data: Path | str | None = None,
    frequency: bool = False,
    limit: int = FREQUENCY_IMAGES,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Measure a model of the catalog, or the one in a checkpoint. Only shapes are followed, unless more is asked for.

    Args:
        name: Catalog name; with a checkpoint it may be left out, or must be the checkpoint's.
        backbone: Name of the backbone; the model's own default if ``None``.
        size: Height and width of the image, in pixels.
        num_classes: Classes of the last layer.
        checkpoint: A run folder or a checkpoint.
        settings: ``model.KEY=VALUE``, for example ``model.output_stride=8``.
        kernels: Average the network's square kernels, tap by tap.
        image: Draw what the network's context layers make of this image, and why a pixel got its class; needs a
            checkpoint.
        out: Folder for the pictures.
        pixel: Row and column of the pixel of the image whose class is explained; the middle if ``None``.
        label: Name of the class that is followed there; the one that the model chose if ``None``.
        latency: Time the model on one image, and tell its memory.
        data: Say whether what the model sees fits the objects of this data folder.
        frequency: Score the network on the data with each frequency band removed; needs a checkpoint and data.
        limit: The most images that are scored so.
        device: Where to compute, if at all.
        progress: Called with images scored and images to score.

    Returns:
        What was found.

    Raises:
        UsageError: Neither name nor checkpoint is given, they do not fit, or a setting is not the model's.
    """
    if frequency and checkpoint is None:
        raise UsageError("--frequency scores trained weights; give --checkpoint, a run or a file")
    if frequency and data is None:
        raise UsageError("--frequency scores labelled images; give their folder with --data")
    if name is None and checkpoint is None:
        raise UsageError("give the name of a model, or --checkpoint")
    if image is None and (pixel is not None or label is not None):
        raise UsageError("--pixel and --class explain a pixel of an image; give it with --image")
    if image is not None and checkpoint is None:
        raise UsageError("pictures of an image need trained weights; give --checkpoint, a run or a file")
    if checkpoint is not None:
        if backbone is not None or settings:
            raise UsageError("a checkpoint knows its backbone and options; leave --backbone and --set out")
        loaded = load_checkpoint(checkpoint).model
        if not isinstance(loaded, SegmentationModel):
            raise UsageError(f"{checkpoint} holds a {type(loaded).__name__}, which is no segmentation model")
        model = loaded
        if name not in {None, model.spec.name}:
            raise UsageError(f"{checkpoint} holds the model {model.spec.name!r}, not {name!r}")
    else:
        model = _from_settings(str(name), backbone, num_classes, settings, values=kernels or latency)
    names = set(split_parameters(model)["backbone"])
    backbone_parameters = sum(value.numel() for key, value in model.named_parameters() if key in names)
    paper = header_of(MODELS[model.spec.name].modern)
    figures = check_figures(model.spec.name, backbone or model.spec.arguments.get("backbone"))
    explained: PixelReport | None = None
    parts: list[InspectionPart] = [*sight_parts(model, size)]
    if latency:
        parts.append(speed_part(model, size, device))
    if kernels:
        parts.append(inspect_kernels(model))
    if image is not None and checkpoint is not None:
        parts.append(draw_features(checkpoint, image, Path(out)))
        explained = explain_image(checkpoint, image, Path(out), pixel=pixel, label=label)
        parts.append(explained)
    if data is not None:
        effective = None if explained is None else explained.field.size
        parts.append(fit_to_data(data, parts[1].to_json(), effective))
    if frequency and checkpoint is not None and data is not None:
        parts.append(inspect_frequency(checkpoint, data, Path(out), limit=limit, device=device, progress=progress))
    return Inspection(model.spec, size, describe(model, size), backbone_parameters, paper, figures, tuple(parts))


def _from_settings(
    name: str, backbone: str | None, num_classes: int, settings: Sequence[str], *, values: bool
) -> SegmentationModel:
    """Build the model; without values on torch's ``meta`` device: no memory, no random numbers."""
    for setting in settings:
        if not setting.strip().startswith("model."):
            raise UsageError(f"inspect takes settings of the model, for example model.output_stride=8; got {setting}")
    config = load_config(None, settings).model
    options: dict[str, Any] = dict(config.options)
    if config.width is not None:
        options["width"] = config.width
    if config.form != "modern":
        options["form"] = config.form
    in_channels = options.pop("in_channels", 3)
    with torch.random.fork_rng(devices=[]), torch.device("cpu" if values else "meta"):
        return create_model(
            name,
            num_classes=num_classes,
            backbone=backbone or config.backbone,
            in_channels=in_channels,
            output_stride=config.output_stride,
            pretrained=values and config.pretrained,
            **options,
        )


def _figures(checks: Sequence[FigureCheck]) -> list[str]:
    """Lay the paper's figures beside ours; each is about the form of the network that the line names."""
    if not checks:
        return []
    cells = [("the paper's figures", "paper", "ours", "", "of", "source")]
    for check in checks:
        built = ", ".join(f"{key}={value}" for key, value in check.options.items())
        same = "equal" if check.agrees else "DIFFERS"
        cells.append((check.quantity, f"{check.paper:,.10g}", f"{check.ours:,.10g}", same, built, check.source))
    return ["", *_aligned(cells, right=(1, 2))]


def _layers(rows: Sequence[LayerCost]) -> list[str]:
    cells = [("layer", "type", "output", "parameters", "MACs")]
    cells += [
        (row.name or "-", row.type, "x".join(map(str, row.output_size)), f"{row.parameters:,}", f"{row.macs:,}")
        for row in rows
    ]
    return ["", *_aligned(cells, right=(3, 4))]


def _aligned(cells: Sequence[Sequence[str]], *, right: Sequence[int]) -> list[str]:
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
