# SPDX-License-Identifier: Apache-2.0
"""``denseg inspect --checkpoint … --image …``: what a trained network's context layers make of one image.

Shape letters: C bands, K classes, D channels, H and W image height and width, h and w feature height and width.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseg.data.reading.images import match_bands, read_image
from denseg.data.samples.normalization import Normalization, value_range
from denseg.errors import ImageError, UsageError
from denseg.files import make_folder
from denseg.inference.writer import to_display
from denseg.layers import LAYERS, HybridDistanceRelation, LocationAwareAttention
from denseg.metrics import context_jump
from denseg.models import load_checkpoint
from denseg.models.checkpoint import checkpoint_path
from denseg.runs import RunFolder
from denseg.training.state import load_state, take
from denseg.workflows.sheets import Panel, write_sheet

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FeatureReport", "class_centers", "context_of", "draw_features", "read_input"]

MAX_PIXELS = 2048 * 2048
"""Larger images are not drawn: the network sees the image whole."""

_CONTEXT = tuple(layer for name, layer in LAYERS.items() if name not in {"asymmetric_conv", "separable_conv"})


@dataclass(frozen=True)
class Drawing:
    """One picture that was written.

    Attributes:
        path: The file.
        shows: What it shows, in a line.
        facts: Numbers of it, by name.
    """

    path: Path
    shows: str
    facts: dict[str, float | None]


@dataclass(frozen=True)
class FeatureReport:
    """The pictures of one image.

    Attributes:
        image: The image.
        drawings: What was written.
    """

    image: Path
    drawings: tuple[Drawing, ...]

    @property
    def key(self) -> str:
        """Name in the JSON document."""
        return "pictures"

    def lines(self) -> list[str]:
        """Give the pictures as text for a person."""
        lines = ["", f"pictures of {self.image}"]
        for drawing in self.drawings:
            lines.append(f"  {drawing.path}  {drawing.shows}")
            numbers = [f"{name} {'-' if value is None else f'{value:.3g}'}" for name, value in drawing.facts.items()]
            lines += [f"    {', '.join(numbers)}"] if numbers else []
        return lines

    def to_json(self) -> list[dict[str, Any]]:
        """Give the pictures as JSON values."""
        return [
            {"path": str(drawing.path), "shows": drawing.shows, "facts": drawing.facts} for drawing in self.drawings
        ]


@torch.inference_mode()
def draw_features(checkpoint: Path | str, image: Path | str, out: Path) -> FeatureReport:
    """Draw what a trained network makes of an image.

    Relations and attention of every location-aware attention, the jumps of every context layer, and the distance of
    the features to the centres of the classes.

    Args:
        checkpoint: A run or a checkpoint file.
        image: The image.
        out: Folder for the pictures; made if it is not there.

    Returns:
        What was written.

    Raises:
        ImageError: The image cannot be read, or does not fit what the network was trained on.
        UsageError: The image is too large, or the network takes only sizes of its own.
    """
    path = checkpoint_path(checkpoint)
    model, metadata = load_checkpoint(path)
    x, shown = read_input(Path(image), model, metadata, path)
    seen: dict[str, tuple[nn.Module, Tensor, Tensor]] = {}
    handles = [
        layer.register_forward_hook(functools.partial(_note, seen, name))
        for name, layer in model.named_modules()
        if isinstance(layer, _CONTEXT)
    ]
    try:
        output = model(x)
    finally:
        for handle in handles:
            handle.remove()
    make_folder(out)
    drawings = []
    for name, (layer, taken, given) in seen.items():
        stem = f"{Path(image).stem}-{name.replace('.', '-')}"
        if isinstance(layer, LocationAwareAttention):
            drawings += _draw_attention(layer, taken, shown, out / stem)
        drawings.append(_draw_jumps(name, context_of(layer, taken, given), shown, out / f"{stem}-jumps.png"))
    labels = output.logits[0].argmax(dim=0)  # (H, W)
    names = metadata["classes"]["names"]
    centers, source = class_centers(checkpoint, output.features, labels, len(names))
    target = out / f"{Path(image).stem}-centers.png"
    drawings.append(_draw_centers(output.features[0], centers, labels, shown, names, source, target))
    return FeatureReport(Path(image), tuple(drawings))


def context_of(layer: nn.Module, features: Tensor, output: Tensor) -> Tensor:
    """Part what a context layer adds from what it hands on.

    Args:
        layer: The layer.
        features: ``(B, C, h, w)``, what it took.
        output: ``(B, C', h, w)``, what it gave.

    Returns:
        The windows' relations for a layer that relates; the channels after the input's for a layer that concatenates;
        the difference for a residual layer; else all it gave.
    """
    if isinstance(layer, LocationAwareAttention):
        relations: Tensor = layer.relation(layer.theta(features))
        return relations
    channels = features.shape[1]
    if output.shape[1] > channels and torch.equal(output[:, :channels], features):
        return output[:, channels:]
    residual = output.shape == features.shape and not isinstance(layer, LAYERS["dilated_context"])
    return output - features if residual else output


def class_centers(checkpoint: Path | str, features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, str]:
    """Find the centres of the classes: those that the run's HFD loss moved, else the means of one image.

    Args:
        checkpoint: A run or a checkpoint file.
        features: ``(1, D, h, w)`` of the image.
        labels: ``(H, W)`` predicted.
        num_classes: K.

    Returns:
        ``(K, D)`` of unit length, NaN for a class without centre; and where they come from.
    """
    if RunFolder.is_run(checkpoint):
        loaded = load_state(RunFolder.open(checkpoint))
        tensors = {} if loaded is None else take(loaded.tensors, "loss")
        table = next((value for name, value in tensors.items() if name.endswith("hfd.table")), None)
        known = next((value for name, value in tensors.items() if name.endswith("hfd.seen")), None)
        if table is not None and known is not None and table.shape == (num_classes, features.shape[1]):
            centers = F.normalize(table.float(), dim=1).masked_fill(~known.bool()[:, None], torch.nan)
            return centers, "centres of the HFD loss"
    size = (features.shape[2], features.shape[3])
    small = (
        F.interpolate(labels[None, None].float(), size=size, mode="nearest-exact")[0, 0].long().flatten()
    )  # (h * w,)
    rows = features[0].flatten(1).T.float()  # (h * w, D)
    sums = rows.new_zeros(num_classes, rows.shape[1]).index_add_(0, small, rows)
    met = torch.bincount(small, minlength=num_classes) > 0
    return F.normalize(sums, dim=1).masked_fill(~met[:, None], torch.nan), "this image's mean of each predicted class"


def _note(seen: dict[str, Any], name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    seen[name] = (layer, inputs[0], output)


def read_input(image: Path, model: Any, metadata: Any, path: Path) -> tuple[Tensor, NDArray[np.uint8]]:
    """Read the image as the network takes it and as a screen shows it.

    Args:
        image: The image's file.
        model: The network.
        metadata: What its checkpoint says.
        path: The checkpoint, for messages.

    Returns:
        ``(1, C, H, W)`` normalised, and ``(H, W, 3)`` to look at.

    Raises:
        UsageError: The image is too large, or the network takes only sizes of its own.
        ImageError: Its values are of another range than the network was trained on.
    """
    if model.geometry.size_step > 1:
        raise UsageError(f"the network of {path} takes only sizes of its own; pictures are drawn of any-size models")
    if metadata["normalization"] is None:
        raise UsageError(f"{path} does not say how its images were normalised; give a run or a checkpoint of one")
    normalization = Normalization.from_json(metadata["normalization"])
    pixels = match_bands(read_image(image), normalization.bands, image)
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        raise UsageError(
            f"{image} has {pixels.shape[0]}x{pixels.shape[1]} pixels, and the network must see it whole; "
            f"cut a part of at most {MAX_PIXELS:,} pixels"
        )
    if value_range(pixels.dtype) != normalization.scale:
        raise ImageError(
            f"{image} has {pixels.dtype} pixels, the model was trained on values of 0..{normalization.scale:g}; "
            "bring them to that range",
            path=image,
        )
    return torch.from_numpy(normalization.apply(pixels))[None], to_display(pixels)


def _draw_attention(
    layer: LocationAwareAttention, features: Tensor, shown: NDArray[np.uint8], stem: Path
) -> list[Drawing]:
    """Draw the relations, one panel per pool and window, and the attention that comes of them."""
    relations = layer.relation(layer.theta(features))[0].float().numpy()  # (n, h, w)
    attention = layer.attention(features)[0, 0].float().numpy()  # (h, w)
    relation: HybridDistanceRelation = layer.relation
    stride = shown.shape[0] / attention.shape[0]
    titles = [f"{pool} {window} ({window * stride:.0f} px)" for pool in relation.pools for window in relation.windows]
    limits = (-1.0, 1.0) if relation.distance == "cosine" else None
    panels = [Panel(values, title, limits) for values, title in zip(relations, titles, strict=True)]
    paths = stem.with_name(f"{stem.name}-relations.png"), stem.with_name(f"{stem.name}-attention.png")
    kind = f"Relation ({relation.distance}) of each position to its surroundings, by pool and window"
    write_sheet(paths[0], panels, columns=len(relation.windows), title=kind)
    top = max(float(attention.max()), 1e-6)
    both = [Panel(shown, "image"), Panel(attention, "u", (0.0, top))]
    write_sheet(paths[1], both, columns=2, title="Attention u: the relations, weighed")
    return [
        Drawing(
            paths[0],
            f"relations at {len(relation.windows)} ranges, {' and '.join(relation.pools)}",
            {title: float(values.mean()) for title, values in zip(titles, relations, strict=True)},
        ),
        Drawing(
            paths[1],
            "attention u",
            {
                "mean": float(attention.mean()),
                "largest": float(attention.max()),
                "share at 0": float((attention == 0).mean()),
            },
        ),
    ]


def _draw_jumps(name: str, context: Tensor, shown: NDArray[np.uint8], path: Path) -> Drawing:
    """Draw how much the context changes from a position to the next."""
    jump = context_jump(context.float())
    top = float(np.quantile(jump.jumps[0], 0.99)) or 1.0
    panels = [Panel(shown, "image"), Panel(jump.jumps[0], f"jump of {name}", (0.0, top))]
    write_sheet(path, panels, columns=2, title="Difference of the context of neighbours")
    facts = {"inside 6x6 regions": jump.inside, "across their borders": jump.across, "ratio": jump.ratio}
    return Drawing(path, f"jumps of the context of {name}", {key: _finite(value) for key, value in facts.items()})


def _draw_centers(
    features: Tensor,
    centers: Tensor,
    labels: Tensor,
    shown: NDArray[np.uint8],
    names: Sequence[str],
    source: str,
    path: Path,
) -> Drawing:
    """Draw the distance of each position to the centre of its predicted class, and whether another one is nearer."""
    unit = F.normalize(features.float(), dim=0)  # (D, h, w)
    similarity = torch.einsum("kd,dhw->khw", centers.to(unit), unit)  # (K, h, w), NaN for classes without centre
    size = (features.shape[1], features.shape[2])
    small = F.interpolate(labels[None, None].float(), size=size, mode="nearest-exact")[0, 0].long()  # (h, w)
    distance = (1 - similarity.gather(0, small[None])[0]).numpy()
    nearest = similarity.nan_to_num(nan=-2.0).argmax(dim=0)
    elsewhere = ((nearest != small) & ~similarity.gather(0, small[None])[0].isnan()).numpy()
    panels = [
        Panel(shown, "image"),
        Panel(small.numpy().astype(float), "predicted class", (0.0, max(1.0, len(names) - 1.0))),
        Panel(distance, "1 - cosine to its centre", (0.0, max(float(np.nanmax(np.append(distance, 0.0))), 1e-6))),
        Panel(elsewhere.astype(float), "another centre is nearer", (0.0, 1.0)),
    ]
    write_sheet(path, panels, columns=4, title=f"Distance to the centre of the class ({source})")
    facts: dict[str, float | None] = {
        f"distance to {names[k]}": float(distance[small.numpy() == k].mean())
        for k in sorted(set(small.flatten().tolist()))
        if not bool(centers[k].isnan().any())
    }
    facts["share nearer to another centre"] = float(elsewhere.mean())
    return Drawing(path, f"distance to class centres: {source}", facts)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
