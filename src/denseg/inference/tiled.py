# SPDX-License-Identifier: Apache-2.0
"""A model that takes images of any size: whole where they fit into memory, in exact tiles where they don't.

The mode is chosen from the model and can be asked for: ``whole``, ``halo`` (equal to the whole), ``overlap_tile`` (for
models with a margin; equal to the whole), ``blend`` (for models that see the whole image at once; an approximation).

Shape letters: B batch, C bands, K classes, H and W image height and width, h and w of a window.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from denseg.errors import ShapeError, UsageError
from denseg.inference.halo import Reach, measure_reach
from denseg.inference.memory import bytes_per_pixel
from denseg.inference.runtime import Blend, Read, SeamReport, TilePlan, round_up, run_plan
from denseg.inference.strategy import Block, Mode, Strategy, TileOptions, choose_strategy, fit_size
from denseg.inference.views import Views
from denseg.types import Geometry

__all__ = ["TiledModel", "model_parts"]

Array = npt.NDArray[Any]
Result = Literal["labels", "probabilities"]


class TiledModel:
    """A network with what it takes to run it on images of any size; safe to call from several threads.

    Attributes:
        model: The network.
        geometry: The network's.
        num_classes: K.
        in_channels: C.
        options: What was said about tiles.
        views: The views that are averaged; ``None`` for the image alone.
    """

    def __init__(
        self,
        model: nn.Module,
        geometry: Geometry,
        *,
        num_classes: int,
        in_channels: int,
        reach: Reach | None = None,
        options: TileOptions | None = None,
        views: Views | None = None,
    ) -> None:
        """Keep what is needed; nothing is computed yet.

        Args:
            model: The network in evaluation mode, on its device.
            geometry: The network's.
            num_classes: K.
            in_channels: C.
            reach: What ``measure_reach`` found for the model; measured when first needed if ``None``.
            options: What the user said about tiles.
            views: Views of the same model to average.

        Raises:
            UsageError: The model is in training mode, or a mode does not fit the model.
        """
        options = options or TileOptions()
        if model.training:
            raise UsageError("inference needs the model in evaluation mode; call model.eval() first")
        if options.mode not in get_args(Mode):
            raise UsageError(f"a tile mode is one of {', '.join(get_args(Mode))}; got {options.mode!r}")
        if geometry.margin and options.mode in {"halo", "blend"}:
            raise UsageError(
                f"this model's result is {geometry.margin} pixels smaller than its input on each side: it is tiled by "
                f"'overlap_tile', not {options.mode!r}"
            )
        if not geometry.margin and options.mode == "overlap_tile":
            raise UsageError(
                "'overlap_tile' is for models whose result is smaller than their input; leave the mode to 'auto'"
            )
        self.model = model
        self.geometry = geometry
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.options = options
        self.views = views
        self._reach = reach if views is None else None
        self._bytes: float | None = None
        self._lock = threading.Lock()

    @property
    def multiple(self) -> int:
        """Sides of windows are multiples of this."""
        return self.geometry.total_stride if self.views is None else self.views.multiple

    @property
    def label_type(self) -> npt.DTypeLike:
        """``uint8``, or ``uint16`` for more than 256 classes."""
        return np.uint8 if self.num_classes <= 256 else np.uint16

    def reach(self) -> Reach:
        """Give the reach; measured at the first call where it was not known."""
        with self._lock:
            if self._reach is None:
                function = self.model if self.views is None else self.views
                self._reach = measure_reach(function, in_channels=self.in_channels, multiple=self.multiple)
            return self._reach

    def strategy(self, height: int, width: int, *, memory: int | None = None) -> Strategy:
        """Decide how an image is computed.

        Args:
            height: Rows of the image.
            width: Columns of the image.
            memory: Bytes for one forward pass; the options' if ``None``.

        Returns:
            The strategy.
        """
        return choose_strategy(
            height,
            width,
            pixels=int((memory or self.options.memory) / self._pixel_bytes()),
            geometry=self.geometry,
            multiple=self.multiple,
            options=self.options,
            reach=self._halo,
        )

    def _halo(self) -> tuple[int | None, str]:
        reach = self.reach()
        return reach.halo, reach.reason

    def labels(self, image: Array, *, strategy: Strategy | None = None) -> Array:
        """Label an image.

        Args:
            image: ``(C, H, W)`` float32, normalised.
            strategy: How; decided if ``None``.

        Returns:
            ``(H, W)`` uint8, or uint16 for more than 256 classes.
        """
        return self.collect(self._reader(image), strategy or self.strategy(*image.shape[1:]), "labels")

    def probabilities(self, image: Array, *, strategy: Strategy | None = None) -> npt.NDArray[np.float32]:
        """Give the probability of every class at every pixel.

        Args:
            image: ``(C, H, W)`` float32, normalised.
            strategy: How; decided if ``None``.

        Returns:
            ``(K, H, W)`` float32.
        """
        return self.collect(self._reader(image), strategy or self.strategy(*image.shape[1:]), "probabilities")

    def collect(self, read: Read, strategy: Strategy, result: Result) -> Array:
        """Compute an image into one array.

        Args:
            read: Called with ``(top, left, height, width)`` inside the image; gives ``(C, height, width)`` float32.
            strategy: How.
            result: ``labels`` or ``probabilities``.

        Returns:
            ``(H, W)`` or ``(K, H, W)``.
        """
        size = strategy.plan.image
        whole: Array = (
            np.empty(size, self.label_type) if result == "labels" else np.empty((self.num_classes, *size), np.float32)
        )
        for block in self.blocks(read, strategy, result=result):
            rows, columns = block.values.shape[-2:]
            whole[..., block.top : block.top + rows, block.left : block.left + columns] = block.values
        return whole

    def blocks(
        self,
        read: Read,
        strategy: Strategy,
        *,
        result: Result = "labels",
        start: int = 0,
        seams: SeamReport | None = None,
    ) -> Iterator[Block]:
        """Compute an image part by part.

        Args:
            read: Called with ``(top, left, height, width)`` inside the image; gives ``(C, height, width)`` float32.
            strategy: How.
            result: ``labels`` or ``probabilities``.
            start: Parts that are there already; the others come out as if they had not been.
            seams: Filled with what overlapping windows disagree about (``blend`` only).

        Yields:
            Parts that together cover the image once; always the same ones in the same order.
        """
        plan = strategy.plan
        if strategy.mode == "blend":
            for number, panel in enumerate(self._panels(plan)):
                first = max(0, start - number * plan.rows)
                if first < plan.rows:
                    yield from self._blended(read, plan, panel, first, result, seams)
            return
        compute = self._labels if result == "labels" else self._probabilities
        for tile, values in run_plan(dataclasses.replace(plan, tiles=plan.tiles[start:]), read, compute):
            yield Block(tile.core_top, tile.core_left, tile.crop(values))

    def count_blocks(self, strategy: Strategy) -> int:
        """Say how many parts :meth:`blocks` gives."""
        plan = strategy.plan
        return plan.rows * len(self._panels(plan)) if strategy.mode == "blend" else len(plan)

    def _panels(self, plan: TilePlan) -> list[range]:
        """Divide the columns of tiles so that the band of a panel's probabilities takes half of the memory at most."""
        column = 4 * self.num_classes * plan.window[0] * plan.window[1]  # bytes of one column of tiles
        wide = max(1, int(self.options.memory / 2 / column))
        return [range(first, min(first + wide, plan.columns)) for first in range(0, plan.columns, wide)]

    def _blended(
        self, read: Read, plan: TilePlan, panel: range, first: int, result: Result, seams: SeamReport | None
    ) -> Iterator[Block]:
        """Blend the columns of a panel from one row of tiles on."""
        left = plan[panel[0]].core_left
        right = plan[panel[-1]].core_left + plan[panel[-1]].core_width
        top = plan[first * plan.columns].top
        columns = [i for i in range(plan.columns) if plan[i].left < right and plan[i].left + plan[i].width > left]
        rows = [i for i in range(plan.rows) if plan[i * plan.columns].top + plan.window[0] > top or i >= first]
        part = plan.part(range(rows[0], plan.rows), range(columns[0], columns[-1] + 1))
        blend = Blend(part, self.num_classes, shape=self.options.window, seams=seams)
        for tile, values in run_plan(part, read, self._probabilities):
            for start, column, band in blend.add(tile, values):
                if start >= top:
                    kept = band[:, :, left - column : right - column]
                    yield Block(
                        start, left, kept.argmax(axis=0).astype(self.label_type) if result == "labels" else kept
                    )

    def _reader(self, image: Array) -> Read:
        if image.ndim != 3 or image.shape[0] != self.in_channels:
            raise ShapeError(f"an image of shape ({self.in_channels}, H, W) was expected, got {image.shape}")
        return lambda top, left, height, width: image[:, top : top + height, left : left + width]

    def _pixel_bytes(self) -> float:
        with self._lock:
            if self._bytes is None:
                function = self.model if self.views is None else self.views
                side = fit_size(round_up(128 + 2 * self.geometry.margin, self.multiple), self.geometry)
                self._bytes = bytes_per_pixel(function, in_channels=self.in_channels, side=side)
            return self._bytes

    def _scores(self, windows: Array) -> tuple[Tensor, bool]:
        """Scores ``(B, K, h, w)`` and whether they are probabilities."""
        images = torch.from_numpy(np.ascontiguousarray(windows, dtype=np.float32))  # (B, C, h, w)
        first = next(self.model.parameters(), None)
        if first is not None:
            images = images.to(first.device)
        if self.views is not None:
            return self.views(images), True
        return self.model(images).logits, False

    def _labels(self, windows: Array) -> Array:
        with torch.inference_mode():
            scores, _ = self._scores(windows)
            # max gives the first of equals, as argmax does, and is up to ten times as fast on a CPU
            labels: Array = scores.max(dim=1).indices.cpu().numpy().astype(self.label_type)  # (B, h, w)
        return labels

    def _probabilities(self, windows: Array) -> Array:
        with torch.inference_mode():
            scores, done = self._scores(windows)
            values: Array = (scores if done else scores.float().softmax(dim=1)).cpu().numpy()  # (B, K, h, w)
        return values


def model_parts(model: nn.Module) -> dict[str, Any]:
    """Read what :class:`TiledModel` needs from a model of the catalog.

    Args:
        model: A model made by ``create_model``.

    Returns:
        ``geometry``, ``num_classes`` and ``in_channels``.

    Raises:
        UsageError: The model lacks one of them.
    """
    parts = {name: getattr(model, name, None) for name in ("geometry", "num_classes", "in_channels")}
    missing: Sequence[str] = [name for name, value in parts.items() if value is None]
    if missing:
        raise UsageError(f"a model of create_model was expected; {type(model).__name__} has no {', '.join(missing)}")
    return parts
