# SPDX-License-Identifier: Apache-2.0
"""Completes the pages of ``docs/papers``: what a person wrote comes first, what the program knows follows.

A page begins with front matter that names the model and, where wanted, how it is built for the picture and for an
image of which side::

    ---
    model: hdnet
    options: {backbone: resnet50}
    size: 512
    ---
"""

from __future__ import annotations

import html
import inspect
import math
import re
from collections.abc import Mapping
from importlib.resources import files as package_files
from typing import Any, NamedTuple

import yaml

__all__ = ["complete_page", "network_picture"]

_OPENED = {"Sequential", "ModuleList", "_Encoder", "_Decoder"}  # drawn by what is in them

PICTURE_SIDE = 512
"""Side of the image that the pictures are drawn for unless a page says another, in pixels."""


def complete_page(text: str) -> str:
    """Add picture, figures, departures and recipe to a page.

    Args:
        text: The page as written, with front matter.

    Returns:
        The page in Markdown, without front matter.
    """
    from denseg.models import MODELS
    from denseg.models.figures import check_figures

    head, body = _split(text)
    name, options = str(head["model"]), dict(head.get("options") or {})
    network = MODELS[name].paper if options.get("form") == "paper" else MODELS[name].modern
    sections = _sections(inspect.getdoc(inspect.getmodule(network)) or "")
    built = ", ".join([f'"{name}"', *(f"{key}={value!r}" for key, value in options.items())])
    parts = [
        body.rstrip(),
        "## The network",
        f"`create_model({built})`, as it runs: every box is a module, in the order of use; its height tells the side "
        "of its map, its width the channels.",
        network_picture(name, options, side=int(head.get("size") or PICTURE_SIDE)),
    ]
    checks = check_figures(name)
    if checks:
        rows = ["| figure | paper | ours | | of | source |", "| --- | ---: | ---: | --- | --- | --- |"]
        for check in checks:
            how = ", ".join(f"{key}={value}" for key, value in check.options.items())
            same = "equal" if check.agrees else "**differs**"
            rows.append(
                f"| {check.quantity} | {check.paper:,.10g} | {check.ours:,.10g} | {same} | {how} | {check.source} |"
            )
        parts += ["## The paper's figures and ours", "\n".join(rows)]
    for title, section in (("Departures", "Departures from the paper"), ("Cost", "Cost"), ("Source", "Paper")):
        if sections.get(section):
            parts += [f"## {title}", _links(sections[section])]
    recipe = package_files("denseg") / "recipes" / f"{name}.yaml"
    if recipe.is_file():
        parts += [
            f"## The recipe\n\n`denseg train DATA --recipe {name}`",
            f"```yaml\n{recipe.read_text(encoding='utf-8').rstrip()}\n```",
        ]
    return "\n\n".join(parts) + "\n"


class Box(NamedTuple):
    """One module as it ran: its name, its type, channels and side of its map."""

    name: str
    type: str
    channels: int
    side: int


def network_picture(name: str, options: Mapping[str, Any], *, side: int = PICTURE_SIDE) -> str:
    """Draw a model as it runs, as SVG.

    Args:
        name: Catalog name.
        options: Of ``create_model``; 21 classes unless they say another number.
        side: Of the image, in pixels; where a form has sizes of its own, the next one.

    Returns:
        The SVG element.
    """
    boxes = _boxes(name, options, side)
    x, shapes = 8.0, []
    for box in boxes:
        width = 5 + 2.6 * math.log2(max(box.channels, 1))
        height = 16 + 15 * math.log2(max(box.side, 1))
        top = 92 - height / 2
        label = html.escape(f"{box.name}: {box.type}, {box.channels} channels, {box.side}x{box.side}")
        shapes.append(
            f"<g><title>{label}</title>"
            f'<rect x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2" '
            f'fill="currentColor" fill-opacity="{0.55 if box.name.startswith("backbone") else 0.25}" '
            'stroke="currentColor" stroke-width="0.7"/>'
            f'<text transform="translate({x + width / 2 + 3:.1f} 190) rotate(60)" font-size="8.5" fill="currentColor">'
            f"{html.escape(box.name)} {box.channels}x{box.side}x{box.side}</text></g>"
        )
        x += width + 10
    title = html.escape(f"{name} as it runs")
    return (
        f'<div><svg viewBox="0 0 {x + 70:.0f} 320" role="img" aria-label="{title}" style="width:100%;height:auto">'
        f"{''.join(shapes)}</svg></div>"
    )


def _boxes(name: str, options: Mapping[str, Any], side: int) -> list[Box]:
    """Run the model without values and note what its parts give."""
    import torch
    from torch import Tensor

    from denseg.models import create_model

    with torch.device("meta"):
        model = create_model(name, **({"num_classes": 21} | dict(options))).eval()
    boxes: list[Box] = []

    def note(place: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            if isinstance(output, Mapping):  # a trunk gives its maps by name
                maps = dict(output)
            elif isinstance(output, (tuple, list)):
                maps = dict(enumerate(output))
            else:
                maps = {"": output}
            for index, value in maps.items():
                if isinstance(value, Tensor) and value.ndim == 4:
                    label = f"{place} {index}" if len(maps) > 1 else place
                    boxes.append(Box(label, type(module).__name__, value.shape[1], value.shape[-1]))

        return hook

    for child, module in model.named_children():
        inner = list(module.named_children()) if type(module).__name__ in _OPENED else []
        inner = [(part, each) for part, each in inner if "Norm" not in type(each).__name__]
        for part, each in inner or [("", module)]:
            if any(True for _ in each.parameters()):
                each.register_forward_hook(note(f"{child}.{part}" if part else child))
    geometry = model.geometry
    if geometry.size_step > 1:
        steps = max(0, -(-(max(side, geometry.min_size) - geometry.size_offset) // geometry.size_step))
        side = geometry.size_offset + geometry.size_step * steps
    with torch.no_grad():
        model(torch.empty(1, model.in_channels, side, side, device="meta"))
    return [Box("image", "input", model.in_channels, side), *boxes]


def _split(text: str) -> tuple[dict[str, Any], str]:
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if found is None:
        raise ValueError("a page of docs/papers begins with front matter that names its model")
    return yaml.safe_load(found.group(1)), text[found.end() :]


def _sections(doc: str) -> dict[str, str]:
    """Part the header of a module into its sections."""
    sections: dict[str, list[str]] = {}
    current = ""
    for line in doc.splitlines():
        if re.fullmatch(r"[A-Z][\w ]+:", line):
            current = line[:-1]
        elif line.startswith("    "):
            sections.setdefault(current, []).append(line[4:])
        elif line:
            current = ""
    return {title: "\n".join(lines) for title, lines in sections.items() if title}


def _links(text: str) -> str:
    return re.sub(r"(?<![<(])(https?://[^\s,;)]*[^\s,;).])", r"<\1>", text.replace("``", "`"))
