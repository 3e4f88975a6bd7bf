# SPDX-License-Identifier: Apache-2.0
"""The planner: what the user left open is decided from the data and the machine, each decision with its reason.

Decisions are made once, before a run begins, and land in its ``config.yaml``; a resumed run reads them back. Without a
time budget they depend on the data's fingerprint and the machine's facts alone; with one, on a few timed steps too.

Letters: K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from denseg.config import RunConfig
from denseg.models import MODELS

if TYPE_CHECKING:
    from denseg.training.machine import Machine

__all__ = ["Decision", "Scene", "decide", "network_ladder", "with_decisions"]

TARGET_BATCH = {"cpu": 8, "cuda": 16, "mps": 8}
MEMORY_SHARE = 0.6
"""Of the free memory that activations may take."""

RARE_SHARE = 0.03
"""A class with fewer of the labelled pixels counts as rare."""

THIN_BORDERS = 0.05
"""Share of pixels at a border between classes from which structures are thin: a smaller picture would lose them."""

SMALLEST_OBJECT = 200.0
"""Pixels of the median object of a class, from which halving height and width keeps it visible."""

SMALL_SIDE = 256
"""Pixels up to which a side of a picture is not cropped."""


class Decision(NamedTuple):
    """One thing that was left open.

    Attributes:
        key: Dotted key of the configuration.
        value: What was decided, a JSON value.
        reason: Why, in a few words.
    """

    key: str
    value: Any
    reason: str

    def __str__(self) -> str:
        value = "x".join(map(str, self.value)) if self.key == "train.crop" else self.value
        return f"{self.key} {value}: {self.reason}"


@dataclass(frozen=True)
class Scene:
    """What the planner knows of the data.

    Attributes:
        images: Training images.
        val_images: Validation images.
        size: Median ``(height, width)`` in pixels.
        bands: Image bands.
        dtype: ``uint8``, ``uint16`` or ``float32``.
        names: The K classes.
        counts: ``(K,)`` labelled pixels of each class.
        objects: Median pixels of an object of each class; ``None`` where none was measured.
        borders: Share of pixels at a border between classes; ``None`` where not measured.
    """

    images: int
    val_images: int
    size: tuple[int, int]
    bands: int
    dtype: str
    names: tuple[str, ...]
    counts: tuple[int, ...]
    objects: tuple[float | None, ...]
    borders: float | None

    @property
    def rare(self) -> tuple[str, ...]:
        """Classes with few of the labelled pixels, rarest first."""
        total = max(sum(self.counts), 1)
        shares = sorted((count / total, name) for name, count in zip(self.names, self.counts, strict=True) if count)
        return tuple(name for share, name in shares if share < RARE_SHARE) if len(shares) > 1 else ()

    @property
    def thin(self) -> bool:
        """Whether structures are thin for their pixels."""
        return self.borders is not None and self.borders > THIN_BORDERS

    @property
    def most_reduction(self) -> int:
        """How far height and width may be divided without losing a class."""
        known = [area for area in self.objects if area is not None]
        if self.thin or not known or min(known) < SMALLEST_OBJECT or min(self.size) < 192:
            return 1
        return 2


def network_ladder(scene: Scene, device: str, said: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List networks from the strongest to the fastest that fit the data: a budget takes the first that it affords.

    Args:
        scene: The data.
        device: ``cpu``, ``cuda`` or ``mps``.
        said: Keys of ``model`` that the user decided, with their values.

    Returns:
        ``model`` keys of each network; at least one.
    """
    entry = MODELS.get(str(said.get("name", "unet")))
    if {"backbone", "reduction", "width"} & said.keys() or said.get("form") == "paper":
        return [{}]
    base: dict[str, Any] = {} if "name" in said else {"name": "unet"}
    if said.get("name", "unet") == "unet" and (scene.thin or device != "cuda"):
        widths = [1.0, 0.5, 0.25] if device == "cuda" else [0.5, 0.25]
        rungs = [base | {"width": width} for width in widths]
        if scene.most_reduction > 1:
            return [*rungs, base | {"width": 0.25, "reduction": 2}]
        return [*rungs, base | {"width": widths[-1] / 2}]
    if entry is None or (said.get("name", "unet") != "unet" and not (entry.backbone or "").startswith("resnet")):
        return [base]  # its trunk is a part of what it is
    backbones = ["resnet50", "resnet34", "resnet18", "resnet10t"] if device == "cuda" else ["resnet18", "resnet10t"]
    rungs = [base | {"backbone": backbone} for backbone in backbones]
    for reduction in range(2, scene.most_reduction + 1):
        rungs += [base | {"backbone": backbone, "reduction": reduction} for backbone in backbones[-2:]]
    return rungs


def decide(
    config: RunConfig, scene: Scene, machine: Machine, *, precision: str, stride: Callable[[RunConfig], int]
) -> tuple[RunConfig, list[Decision]]:
    """Decide what the configuration leaves open, length and memory aside.

    Args:
        config: What the user said; a key counts as said where it was given, whatever its value.
        scene: The data.
        machine: The machine.
        precision: What the device multiplies faster, ``32`` or ``bf16``.
        stride: Gives the stride of the network of a configuration: crops are multiples of it.

    Returns:
        The configuration with the decisions, and the decisions.
    """
    made: list[Decision] = []
    device = machine.device
    model = _said(config.model)
    rung = network_ladder(scene, device, model)[0]
    made += [Decision(f"model.{key}", value, _network_reason(scene, device)) for key, value in rung.items()]
    rare = scene.rare
    listed = ", ".join(rare[:3]) + (" and others" if len(rare) > 3 else "")
    small = scene.images < 4 * TARGET_BATCH[device]
    batch = max(2, min(TARGET_BATCH[device], scene.images // 4)) if small else TARGET_BATCH[device]
    made.append(
        Decision("train.batch_size", batch, f"{scene.images} training images" if small else f"usual on a {device}")
    )
    pretrained = config.init == "imagenet" or config.model.pretrained
    rate = round((1e-3 if pretrained else 2e-3) * math.sqrt(batch / 8), 6)
    made += [
        Decision("train.optimizer", "adamw", "learns fast from random weights, and forgives its learning rate"),
        Decision("train.learning_rate", rate, f"batches of {batch}, {'pretrained' if pretrained else 'from scratch'}"),
        Decision("train.weight_decay", 0.01, "usual of adamw"),
        Decision("train.schedule", "one_cycle", "rises and falls within the length, whatever it is"),
        Decision("train.peak_at", 0.15, "most of the steps go to the fall"),
    ]
    if rare:
        made.append(Decision("train.class_weight", "enet", f"rare classes: {listed}"))
    if any(area is not None for area in scene.objects) or rare:
        made.append(Decision("train.scale", [0.7, 1.5], "objects keep their size within a factor of two"))
    if scene.bands == 3 and scene.dtype == "uint8":
        made.append(Decision("train.augment.brightness", 0.1, "colour pictures"))
        made.append(Decision("train.augment.contrast", 0.2, "colour pictures"))
    made.append(Decision("train.precision", precision, f"what this {device} multiplies fastest"))
    workers = min(8, max(machine.processors - 1, 0)) if device == "cuda" else min(1, machine.processors - 1)
    made.append(Decision("train.workers", workers, f"{machine.processors} processors"))
    made = [decision for decision in made if not is_said(config, decision.key)]
    config = with_decisions(config, made)
    if not is_said(config, "train.crop"):
        made.append(_crop(scene, stride(config), config.model.options.get("reduction", 1)))
        config = with_decisions(config, made[-1:])
    return config, made


def fit_memory(config: RunConfig, sample_bytes: int, machine: Machine) -> list[Decision]:
    """Make batches small enough for the memory, and steps of several batches where one no longer holds enough.

    Args:
        config: The configuration, with a batch size.
        sample_bytes: What one sample keeps in memory.
        machine: The machine.

    Returns:
        Decisions about ``batch_size`` and ``accumulate``; none where all fits.
    """
    batch = config.train.batch_size
    room = max(1, int(MEMORY_SHARE * machine.memory / max(sample_bytes, 1)))
    if room >= batch:
        return []
    parts = math.ceil(batch / room)
    why = f"a sample takes {sample_bytes / 2**20:.0f} MiB, {machine.memory / 2**30:.1f} GiB are free"
    return [
        Decision("train.batch_size", math.ceil(batch / parts), why),
        Decision("train.accumulate", config.train.accumulate * parts, f"steps of {batch} samples all the same"),
    ]


def with_decisions(config: RunConfig, decisions: Sequence[Decision]) -> RunConfig:
    """Lay decisions over a configuration; what was said before stays said, and what is decided counts as open.

    Args:
        config: The configuration.
        decisions: What to change.

    Returns:
        The changed configuration.
    """
    if not decisions:
        return config
    values = config.model_dump(exclude_unset=True)
    for decision in decisions:
        *path, last = decision.key.split(".")
        section = values
        for name in path:
            section = section.setdefault(name, {})
        section[last] = decision.value
    return RunConfig.model_validate(values)


def is_said(config: RunConfig, key: str) -> bool:
    """Tell whether the user, or the recipe, gave a key.

    Args:
        config: The configuration as it was read.
        key: A dotted key.

    Returns:
        Whether it was given, whatever its value.
    """
    section: Any = config
    for name in key.split("."):
        if name not in section.model_fields_set:
            return False
        section = getattr(section, name)
    return True


def _said(section: Any) -> dict[str, Any]:
    return {name: getattr(section, name) for name in section.model_fields_set}


def _network_reason(scene: Scene, device: str) -> str:
    if scene.thin:
        return "thin structures, which an encoder at full resolution keeps"
    return "learns fastest from scratch on a CPU" if device == "cpu" else f"usual on a {device}"


def _crop(scene: Scene, stride: int, reduction: int) -> Decision:
    """About five sixths of the picture, so that crops differ, in whole strides, not above 512 of what the net sees.

    Small pictures are taken whole.
    """
    limit = 512 * reduction
    sides = []
    for side in scene.size:
        if side <= SMALL_SIDE:
            sides.append(side)
            continue
        wanted = min(side * 5 / 6, limit)
        sides.append(min(math.ceil(wanted / stride) * stride, max(limit, stride)))
    height, width = scene.size
    return Decision("train.crop", sides, f"images of {height}x{width}, stride {stride}")
