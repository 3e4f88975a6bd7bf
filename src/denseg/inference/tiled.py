# SPDX-License-Identifier: Apache-2.0
"""A model that takes images of any size: whole where they fit into memory, in exact tiles where they don't.

The mode is chosen from the model and can be asked for: ``whole``, ``halo`` (equal to the whole), ``overlap_tile`` (for
models with a margin; equal to the whole), ``blend`` (for models that see the whole image at once; an approximation).

Shape letters: B batch, C bands, K classes, H and W image height and width, h and w of a window.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from denseg.errors import ShapeError, UsageError
from denseg.inference.blocks import Result, collect_blocks, compute_blocks, count_blocks
from denseg.inference.exact import ExactImage, measure_exact_reach
from denseg.inference.halo import Reach, measure_reach
from denseg.inference.memory import bytes_per_pixel
from denseg.inference.runtime import Read, SeamReport, read_padded, round_up
from denseg.inference.strategy import Block, Mode, Strategy, TileOptions, choose_strategy, fit_size
from denseg.inference.views import Views
from denseg.types import Geometry

__all__ = ["TiledModel", "ViewVariance", "model_parts"]

Array = npt.NDArray[Any]


class TiledModel:
    """A network with what it takes to run it on images of any size; safe to call from several threads.

    Attributes:
        model: The network.
        geometry: The network's.
        num_classes: K.
        in_channels: C.
        options: What was said about tiles.
        views: The views that are averaged; ``None`` for the image alone.
        fast: What computes in the place of model and views, another engine; its result is theirs but for rounding.
        fill: What stands outside the image in a window: the mean pixel.
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
        if geometry.margin and options.mode in {"halo", "blend", "exact"}:
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
        self.fast: nn.Module | None = None
        self.fill = 0.0
        self._reach = reach if views is None else None
        self._exact: tuple[Reach, int] | None = None
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
        if self.options.mode == "exact" and not self.geometry.margin:
            return self._exact_strategy(height, width, memory)
        return choose_strategy(
            height,
            width,
            pixels=int((memory or self.options.memory) / self.bytes_per_pixel()),
            geometry=self.geometry,
            multiple=self.multiple,
            options=self.options,
            reach=self._halo,
        )

    def _exact_strategy(self, height: int, width: int, memory: int | None) -> Strategy:
        """Tiles with a halo; where the model sees the whole image, after collecting what it takes from it."""
        passes = 0
        reach = self.reach()
        if reach.halo is None:
            reach, passes = self.exact_reach()
        if reach.halo is None:
            raise UsageError(f"no tiles of this model are exact: {reach.reason}; leave the mode to 'auto'")
        found = choose_strategy(
            height,
            width,
            pixels=int((memory or self.options.memory) / self.bytes_per_pixel()),
            geometry=self.geometry,
            multiple=self.multiple,
            options=replace(self.options, mode="auto"),
            reach=lambda: (reach.halo, reach.reason),
        )
        if not passes or found.mode == "whole":
            return found
        return found._replace(mode="exact", reason=f"{passes} passes for what the model takes from the whole image")

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
        return collect_blocks(self, read, strategy, result, blocks=self.blocks(read, strategy, result=result))

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

        Returns:
            Parts that together cover the image once; always the same ones in the same order.
        """
        if strategy.mode == "exact":
            return self._exact_blocks(read, strategy, result, start)
        return compute_blocks(self, read, strategy, result=result, start=start, seams=seams)

    def _exact_blocks(self, read: Read, strategy: Strategy, result: Result, start: int) -> Iterator[Block]:
        plan = strategy.plan
        image = ExactImage(self.model, plan, read)
        for tile in plan.tiles[start:]:
            scores = image.scores(tile, read_padded(read, tile, plan.image, mirrored=False)[None])
            if result == "labels":
                values: Array = scores.max(dim=1).indices[0].cpu().numpy().astype(self.label_type)
            else:
                values = scores[0].float().softmax(dim=0).cpu().numpy()
            yield Block(tile.core_top, tile.core_left, tile.crop(values))

    def exact_reach(self) -> tuple[Reach, int]:
        """Give the halo with everything global known, and how many passes that takes; measured at the first call.

        Returns:
            The reach and the number of quantities that the model takes from the whole image.

        Raises:
            UsageError: Several views are averaged, or another engine computes.
        """
        if self.views is not None or self.fast is not None:
            raise UsageError("exact tiles are for one view of an image, computed by torch; drop --scales and --flip")
        with self._lock:
            if self._exact is None:
                self._exact = measure_exact_reach(self.model, in_channels=self.in_channels, multiple=self.multiple)
            return self._exact

    def count_blocks(self, strategy: Strategy) -> int:
        """Say how many parts :meth:`blocks` gives."""
        return count_blocks(self, strategy)

    def _reader(self, image: Array) -> Read:
        if image.ndim != 3 or image.shape[0] != self.in_channels:
            raise ShapeError(f"an image of shape ({self.in_channels}, H, W) was expected, got {image.shape}")
        return lambda top, left, height, width: image[:, top : top + height, left : left + width]

    def bytes_per_pixel(self) -> float:
        """Give the bytes of activations per input pixel, weights aside; measured at the first call."""
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
        function = next(module for module in (self.fast, self.views, self.model) if module is not None)
        result = function(images)
        return (result, True) if isinstance(result, Tensor) else (result.logits, False)

    def compute_labels(self, windows: Array) -> Array:
        """Label windows.

        Args:
            windows: ``(B, C, h, w)`` float32, normalised.

        Returns:
            ``(B, h, w)`` (a model with a margin: its own size).
        """
        with torch.inference_mode():
            scores, _ = self._scores(windows)
            # max gives the first of equals, as argmax does, and is up to ten times as fast on a CPU
            labels: Array = scores.max(dim=1).indices.cpu().numpy().astype(self.label_type)  # (B, h, w)
        return labels

    def compute_probabilities(self, windows: Array) -> Array:
        """Give the probabilities of windows.

        Args:
            windows: ``(B, C, h, w)`` float32, normalised.

        Returns:
            ``(B, K, h, w)`` (a model with a margin: its own size).
        """
        with torch.inference_mode():
            scores, done = self._scores(windows)
            values: Array = (scores if done else scores.float().softmax(dim=1)).cpu().numpy()  # (B, K, h, w)
        return values


class ViewVariance:
    """Computes where the views of a model disagree, in the place of the probabilities.

    Attributes:
        num_classes: 1: one value per pixel.
        label_type: Of labels.
        options: The model's.
        fill: The model's.
    """

    def __init__(self, tiled: TiledModel) -> None:
        """Take a model.

        Args:
            tiled: A model with several views.

        Raises:
            UsageError: It has one view only, which agrees with itself.
        """
        if tiled.views is None:
            raise UsageError("a variance needs several views of an image: give --scales, --flip or --turns")
        self.num_classes = 1
        self.label_type = tiled.label_type
        self.options = tiled.options
        self.fill = tiled.fill
        self._tiled = tiled

    def compute_labels(self, windows: Array) -> Array:
        """Label windows; see :class:`TiledModel`."""
        return self._tiled.compute_labels(windows)

    def compute_probabilities(self, windows: Array) -> Array:
        """Give the variance of windows ``(B, C, h, w)`` as ``(B, 1, h, w)``."""
        views = self._tiled.fast if isinstance(self._tiled.fast, Views) else self._tiled.views
        device = next(self._tiled.model.parameters()).device
        with torch.inference_mode():
            images = torch.from_numpy(np.ascontiguousarray(windows, dtype=np.float32)).to(device)
            values: Array = views.variance(images).float().cpu().numpy()  # type: ignore[union-attr]
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
