# SPDX-License-Identifier: Apache-2.0
"""``denseg inspect --checkpoint … --image … --pixel R,C``: why a pixel got its class.

Shape letters: C bands, K classes, H and W image height and width, h and w feature height and width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from denseg.errors import UsageError
from denseg.files import make_folder
from denseg.inference.attention_maps import attention_map, record_inputs
from denseg.inference.effective_field import EffectiveField, effective_field, score_gradient
from denseg.layers import LocationAwareAttention
from denseg.models import load_checkpoint
from denseg.models.checkpoint import checkpoint_path
from denseg.workflows.inspect_features import read_input
from denseg.workflows.sheets import Panel, write_sheet

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PixelReport", "explain_image", "explain_pixel"]

TOP = 5
"""Classes named with their probabilities."""


@dataclass(frozen=True)
class PixelReport:
    """Why one pixel got its class.

    Attributes:
        image: The image.
        row: Of the pixel.
        column: Of the pixel.
        target: The class that was followed.
        probabilities: Of the likeliest classes there, most likely first.
        field: Where the gradient lies.
        attention: By layer: ``(h, w)`` weights of the positions, as numbers of a picture.
        ranges: By location-aware layer: per pool the relation at each window's side in pixels of the image.
        pictures: Files that were written, each with what it shows.
    """

    image: Path
    row: int
    column: int
    target: str
    probabilities: dict[str, float]
    field: EffectiveField
    attention: dict[str, NDArray[np.float32]] = dataclasses.field(default_factory=dict)
    ranges: dict[str, dict[str, dict[int, float]]] = dataclasses.field(default_factory=dict)
    pictures: tuple[tuple[Path, str], ...] = ()

    @property
    def key(self) -> str:
        """Name in the JSON document."""
        return "pixel"

    def lines(self) -> list[str]:
        """Give the report as text for a person."""
        likely = ", ".join(f"{name} {value:.3f}" for name, value in self.probabilities.items())
        lines = [
            "",
            f"pixel {self.row},{self.column} of {self.image}: {likely}",
            f"  the score of {self.target} moves with a square of {self.field.size} pixels around it (nine tenths of "
            "its gradient)",
        ]
        for name, pools in self.ranges.items():
            for pool, windows in pools.items():
                told = ", ".join(f"{side} px {value:.2f}" for side, value in windows.items())
                lines.append(f"  {name}, {pool}: likeness to its surroundings by range: {told}")
        return lines + [f"  {path}  {shows}" for path, shows in self.pictures]

    def to_json(self) -> dict[str, Any]:
        """Give the report as JSON values."""
        return {
            "image": str(self.image),
            "row": self.row,
            "column": self.column,
            "class": self.target,
            "probabilities": self.probabilities,
            "effective_field": self.field.size,
            "attention": {
                name: {"size": list(values.shape), "largest": float(values.max()), "entropy": _entropy(values)}
                for name, values in self.attention.items()
            },
            "ranges": {
                name: {pool: {str(side): value for side, value in windows.items()} for pool, windows in pools.items()}
                for name, pools in self.ranges.items()
            },
            "pictures": [{"path": str(path), "shows": shows} for path, shows in self.pictures],
        }


def explain_pixel(
    model: nn.Module,
    images: Tensor,
    *,
    row: int,
    column: int,
    names: Sequence[str],
    label: str | None = None,
    image: Path | None = None,
) -> PixelReport:
    """Follow the score of a pixel back to the image and into every attention layer.

    Args:
        model: A network of ``create_model`` in evaluation mode.
        images: ``(1, C, H, W)``, normalised, on the model's device.
        row: Of the pixel.
        column: Of the pixel.
        names: Names of the classes.
        label: The class to follow; the one that the model chose if ``None``.
        image: The image's file, for the record.

    Returns:
        The report, without pictures.

    Raises:
        UsageError: There is no such pixel or class.
    """
    height, width = images.shape[-2:]
    if not (0 <= row < height and 0 <= column < width):
        raise UsageError(f"the pixel {row},{column} lies outside of the {height}x{width} image")
    if label is not None and label not in names:
        raise UsageError(f"the model has no class {label!r}; it has {', '.join(names)}")
    with torch.inference_mode():
        output, seen = record_inputs(model, images)
        probabilities = output.logits[0, :, row, column].float().softmax(dim=0).cpu()  # (K,)
        attention, ranges = {}, {}
        for name, (layer, features) in seen.items():
            place = _place(row, column, (height, width), features)
            attention[name] = attention_map(layer, features, *place).float().cpu().numpy()
            if isinstance(layer, LocationAwareAttention):
                ranges[name] = _ranges(layer, features, place, height / features.shape[2])
    chosen = names.index(label) if label is not None else int(probabilities.argmax())
    order = probabilities.argsort(descending=True)[:TOP].tolist()
    return PixelReport(
        image or Path("image"),
        row,
        column,
        names[chosen],
        {names[index]: float(probabilities[index]) for index in order},
        effective_field(model, images, row=row, column=column, label=chosen),
        attention,
        ranges,
    )


def explain_image(
    checkpoint: Path | str, image: Path | str, out: Path, *, pixel: tuple[int, int] | None, label: str | None = None
) -> PixelReport:
    """Explain one pixel of an image file, and write the pictures.

    Args:
        checkpoint: A run or a checkpoint file.
        image: The image.
        out: Folder for the pictures; made if it is not there.
        pixel: Row and column; the middle if ``None``.
        label: Name of the class to follow; the one that the model chose if ``None``.

    Returns:
        The report.
    """
    path = checkpoint_path(checkpoint)
    model, metadata = load_checkpoint(path)
    images, shown = read_input(Path(image), model, metadata, path)
    height, width = images.shape[-2:]
    row, column = (height // 2, width // 2) if pixel is None else pixel
    names = metadata["classes"]["names"]
    report = explain_pixel(model, images, row=row, column=column, names=names, label=label, image=Path(image))
    make_folder(out)
    stem = f"{Path(image).stem}-{row}-{column}"
    marked = _marked(shown, row, column)
    gradient, _ = score_gradient(model, images, row=row, column=column, label=names.index(report.target))
    smooth = _smooth_gradient(model, images, row, column, names.index(report.target))
    parts = [
        Panel(marked, "image"),
        Panel(_compressed(report.field.gradient), "gradient (square root)"),
        Panel(_compressed(smooth), "gradient, mean of 8 noisy images (square root)"),
        Panel((gradient * images)[0].sum(dim=0).numpy(), "gradient times pixel", _even(gradient * images)),
    ]
    pictures = [(out / f"{stem}-gradient.png", f"what moves the score of {report.target}")]
    write_sheet(pictures[0][0], parts, columns=2, title=f"Why {report.target} at {row},{column}")
    if report.attention:
        maps = [Panel(marked, "image"), *(Panel(values, name) for name, values in report.attention.items())]
        pictures.append((out / f"{stem}-attention.png", "where each attention layer looks from there"))
        write_sheet(pictures[-1][0], maps, columns=3, title=f"Attention at {row},{column}")
    for name, pools in report.ranges.items():
        rings = [Panel(marked, "image")]
        rings += [Panel(_rings(shown, row, column, windows), f"{pool}") for pool, windows in pools.items()]
        pictures.append((out / f"{stem}-{name.replace('.', '-')}-ranges.png", f"likeness by range, {name}"))
        write_sheet(pictures[-1][0], rings, columns=3, title=f"Likeness to the surroundings by range: {name}")
    return dataclasses.replace(report, pictures=tuple(pictures))


def _place(row: int, column: int, size: tuple[int, int], features: Tensor) -> tuple[int, int]:
    """The position of a map that lies over a pixel."""
    height, width = features.shape[-2:]
    return min(row * height // size[0], height - 1), min(column * width // size[1], width - 1)


def _ranges(
    layer: LocationAwareAttention, features: Tensor, place: tuple[int, int], stride: float
) -> dict[str, dict[int, float]]:
    relation = layer.relation
    values = relation(layer.theta(features))[0, :, place[0], place[1]].float().tolist()
    sides = [round(window * stride) for window in relation.windows]
    count = len(sides)
    return {
        str(pool): dict(zip(sides, values[index * count : (index + 1) * count], strict=True))
        for index, pool in enumerate(relation.pools)
    }


def _smooth_gradient(
    model: nn.Module, images: Tensor, row: int, column: int, label: int, *, samples: int = 8
) -> NDArray[np.float32]:
    """Mean gradient over noisy copies (D. Smilkov et al., "SmoothGrad", 2017): single pixels' chance goes out."""
    generator = torch.Generator().manual_seed(0)
    spread = 0.1 * float(images.max() - images.min())
    total = np.zeros(images.shape[-2:], dtype=np.float32)
    for _ in range(samples):
        noisy = images + spread * torch.randn(images.shape, generator=generator).to(images)
        total += effective_field(model, noisy, row=row, column=column, label=label).gradient / samples
    return total


def _compressed(values: NDArray[np.float32]) -> NDArray[np.float32]:
    root: NDArray[np.float32] = np.sqrt(values / max(float(values.max()), 1e-30))
    return root


def _even(values: Tensor) -> tuple[float, float]:
    top = float(values[0].sum(dim=0).abs().max()) or 1.0
    return -top, top


def _marked(shown: NDArray[np.uint8], row: int, column: int) -> NDArray[np.uint8]:
    """Draw a cross at the pixel."""
    marked = shown.copy()
    reach = max(4, min(shown.shape[:2]) // 24)
    for color, thick in (((0, 0, 0), 1), ((255, 255, 0), 0)):
        marked[max(row - thick, 0) : row + thick + 1, max(column - reach, 0) : column + reach + 1] = color
        marked[max(row - reach, 0) : row + reach + 1, max(column - thick, 0) : column + thick + 1] = color
    return marked


def _rings(shown: NDArray[np.uint8], row: int, column: int, windows: dict[int, float]) -> NDArray[np.float32]:
    """A map in which each window's part outside of the next smaller one has its relation; NaN beyond."""
    values = np.full(shown.shape[:2], np.nan, dtype=np.float32)
    for side in sorted(windows, reverse=True):
        half = side // 2
        values[max(row - half, 0) : row + half + 1, max(column - half, 0) : column + half + 1] = windows[side]
    return values


def _entropy(values: NDArray[np.float32]) -> float | None:
    """How widely a map is spread: 0 one position, 1 all alike; ``None`` for weights that are no shares."""
    if values.size < 2 or values.min() < 0 or not values.sum() > 0:
        return None
    share = values.astype(np.float64) / values.sum()
    return float(-(share * np.log(np.maximum(share, 1e-300))).sum() / math.log(values.size))
