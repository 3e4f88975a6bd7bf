# SPDX-License-Identifier: Apache-2.0
"""``denseg models``: what there is, read from the catalogs and from the headers of the files themselves."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn

from denseg.backbones import backbone_names
from denseg.layers.catalog import LAYERS
from denseg.losses.catalog import LOSSES
from denseg.models import MODELS, create_model

__all__ = ["Catalogs", "header_of", "list_models"]

COUNTED_CLASSES = 21
"""Classes at which models are counted: PASCAL VOC's, as in most papers."""

COUNTED_CHANNELS = 512
"""Input channels at which layers are counted."""


@dataclass(frozen=True)
class Catalogs:
    """Everything that denseg has by name.

    Attributes:
        models: One row per model: ``name``, ``paper``, ``url``, ``forms``, ``backbone``, ``output_stride``,
            ``parameters`` (of the default form, 21 classes).
        layers: One row per layer: ``name``, ``paper``, ``url``, ``parameters`` (at 512 channels).
        losses: One row per loss: ``name``, ``paper``, ``url``.
        backbones: One row per family: ``name``, ``count``.
    """

    models: tuple[dict[str, Any], ...]
    layers: tuple[dict[str, Any], ...]
    losses: tuple[dict[str, Any], ...]
    backbones: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """Give the catalogs as JSON values."""
        return {
            "models": list(self.models),
            "layers": list(self.layers),
            "losses": list(self.losses),
            "backbones": list(self.backbones),
        }

    def lines(self) -> list[str]:
        """Give the catalogs as text for a person."""
        lines = [f"Models ({COUNTED_CLASSES} classes)"]
        for row in self.models:
            on = f"on {row['backbone']}" if row["backbone"] else "own encoder"
            lines.append(f"  {row['name']:<18} {_millions(row['parameters']):>8}  {on:<14} {row['paper']}")
        lines += ["", f"Layers ({COUNTED_CHANNELS} channels in)"]
        lines += [f"  {row['name']:<18} {_millions(row['parameters']):>8}  {row['paper']}" for row in self.layers]
        lines += ["", "Losses"]
        lines += [f"  {row['name']:<18} {row['paper']}" for row in self.losses]
        count = sum(row["count"] for row in self.backbones)
        lines += ["", f"Backbones: {count} names of timm in {len(self.backbones)} families, for example resnet50"]
        width = 6
        cells = [f"{row['name']} ({row['count']})" for row in self.backbones]
        lines += ["  " + ", ".join(cells[start : start + width]) for start in range(0, len(cells), width)]
        return lines


def list_models() -> Catalogs:
    """Read the catalogs.

    Returns:
        Every model, layer, loss and backbone family.
    """
    models = []
    for name, entry in sorted(MODELS.items()):
        with torch.device("meta"):
            model = create_model(name, num_classes=COUNTED_CLASSES)
        models.append(
            {
                "name": name,
                **header_of(entry.modern),
                "forms": ["modern", "paper"] if entry.paper is not None else ["modern"],
                "backbone": entry.backbone,
                "output_stride": entry.output_stride,
                "parameters": _count(model),
            }
        )
    layers = [
        {"name": name, **header_of(layer), "parameters": _layer_parameters(layer)}
        for name, layer in sorted(LAYERS.items())
    ]
    losses = [{"name": name, **header_of(loss)} for name, loss in sorted(LOSSES.items())]
    known = set(backbone_names())
    families = []
    for family in timm.list_modules():
        count = sum(name in known for name in timm.list_models(module=family))
        if count:
            families.append({"name": family, "count": count})
    return Catalogs(tuple(models), tuple(layers), tuple(losses), tuple(families))


def header_of(item: type) -> dict[str, str]:
    """Read the paper of a class from the header of its file.

    Args:
        item: A class of a catalog.

    Returns:
        ``paper``: authors, title and venue, or the file's first line where it has no paper; ``url``: its address or
        an empty text.
    """
    text = inspect.getdoc(inspect.getmodule(item)) or ""
    found = re.search(r"^Paper:\n((?:[ \t]+\S.*\n?)+)", text, re.MULTILINE)
    if found is None:
        return {"paper": text.partition("\n")[0].rstrip("."), "url": ""}
    citation = " ".join(found.group(1).split())
    url = re.search(r"https?://\S+", citation)
    return {
        "paper": citation[: url.start()].rstrip(" .-") if url else citation.rstrip("."),
        "url": url.group().rstrip(".,") if url else "",
    }


def _layer_parameters(layer: Any) -> int | None:
    """Count a layer's parameters; ``None`` for one that is not built from a number of channels."""
    if next(iter(inspect.signature(layer).parameters), "") != "in_channels":
        return None
    with torch.device("meta"):
        return _count(layer(COUNTED_CHANNELS))


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _millions(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.2f} M"
