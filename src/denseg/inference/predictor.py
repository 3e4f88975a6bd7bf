# SPDX-License-Identifier: Apache-2.0
"""The one door to a trained model: a checkpoint or run and an image of any size in, labels out.

Shape letters: C bands, K classes, H and W image height and width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from denseg.data.reading.decode import DEFAULT_MAX_PIXELS
from denseg.data.reading.images import match_bands, read_image
from denseg.data.reading.windows import TiffWindows
from denseg.data.samples.normalization import Normalization
from denseg.errors import CheckpointError, ImageError, ShapeError
from denseg.inference.blocks import collect_blocks
from denseg.inference.canvas import fit_size
from denseg.inference.device import choose_device
from denseg.inference.halo import Reach
from denseg.inference.postprocess import PostProcessing, clean_labels
from denseg.inference.runtime import Read, SeamReport, read_padded
from denseg.inference.strategy import Block, Strategy, TileOptions
from denseg.inference.tiled import TiledModel, ViewVariance, model_parts
from denseg.inference.views import Views
from denseg.layers.fold import fold_batch_norms
from denseg.metrics.temperature import apply_temperature
from denseg.models.checkpoint import checkpoint_path, load_checkpoint
from denseg.types import ClassTable

__all__ = ["Predictor"]

Array = npt.NDArray[Any]


class Predictor:
    """Labels images with one model; safe to call from several threads.

    Attributes:
        tiled: The network with its tiles.
        classes: Names and colours.
        normalization: Applied to every image.
        metadata: What the checkpoint says besides; empty for a model without one.
        path: The checkpoint's file; ``None`` for a model without one.
        postprocessing: What is done to the labels of a whole image; stored in the checkpoint.
        max_pixels: Larger files are refused before they are decoded.
        temperature: Makes probabilities honest, see ``metrics.temperature``; fitted on the validation split and stored
            in the checkpoint. No label depends on it.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        classes: ClassTable,
        normalization: Normalization,
        reach: Reach | None = None,
        options: TileOptions | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        turns: bool = False,
    ) -> None:
        """Wrap a model in evaluation mode, on its device.

        Args:
            model: A network of ``create_model``.
            classes: Names and colours.
            normalization: As in training.
            reach: The model's, where known.
            options: What to do about tiles.
            scales: Sizes at which the image is seen; several are averaged.
            flip: See it mirrored left to right, too.
            turns: See it at all four quarter turns.
        """
        parts = model_parts(model)
        views = None
        if tuple(scales) != (1.0,) or flip or turns:
            views = Views(model, parts["geometry"], scales=scales, flip=flip, turns=turns).eval()
        self.tiled = TiledModel(model, **parts, reach=reach, options=options, views=views)
        self.classes = classes
        self.normalization = normalization
        self.metadata: dict[str, Any] = {}
        self.path: Path | None = None
        self.max_pixels = DEFAULT_MAX_PIXELS
        self.temperature = 1.0
        self.postprocessing = PostProcessing()

    @classmethod
    def load(  # noqa: PLR0913 - the options of the commands
        cls,
        path: Path | str,
        *,
        device: str = "auto",
        tile: int | None = None,
        overlap: int | None = None,
        options: TileOptions | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        turns: bool = False,
        output_stride: int | None = None,
    ) -> Predictor:
        """Load a checkpoint.

        Args:
            path: The file, or a run folder (its best checkpoint, else its last).
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
            tile: Side of the windows in pixels; chosen from the memory if ``None``.
            overlap: Pixels that two windows share; chosen from the model if ``None``.
            options: All options of tiles; ``tile`` and ``overlap`` are laid over them.
            scales: Sizes at which the image is seen; several are averaged.
            flip: See it mirrored left to right, too.
            turns: See it at all four quarter turns.
            output_stride: Of the backbone, in place of the one that it was trained with.

        Returns:
            The predictor.

        Raises:
            CheckpointError: The file is missing or damaged, or holds no normalisation.
        """
        target = choose_device(device)
        file = checkpoint_path(path)
        model, metadata = load_checkpoint(file, output_stride=output_stride)
        if metadata["normalization"] is None:
            raise CheckpointError(
                f"{file} does not say how its images were normalised; save it again with "
                "save_checkpoint(…, normalization=…)",
                path=file,
            )
        model = _fast(model, target)
        base = options or TileOptions()
        chosen = TileOptions(
            base.mode,
            base.tile if tile is None else tile,
            base.overlap if overlap is None else overlap,
            base.memory,
            base.window,
        )
        predictor = cls(
            model,
            classes=ClassTable.from_json(metadata["classes"]),
            normalization=Normalization.from_json(metadata["normalization"]),
            reach=None if metadata["halo"] is None else Reach.from_json(metadata["halo"]),
            options=chosen,
            scales=scales,
            flip=flip,
            turns=turns,
        )
        predictor.metadata = metadata
        predictor.path = file
        predictor.temperature = float((metadata["calibration"] or {}).get("temperature", 1.0))
        predictor.postprocessing = PostProcessing.from_json(metadata["postprocessing"])
        return predictor

    def predict(
        self, image: Path | str | Array, *, strategy: Strategy | None = None, name: Path | str | None = None
    ) -> Array:
        """Label one image.

        Args:
            image: A file, or pixels as :func:`~denseg.data.reading.images.read_image` gives them: ``(H, W, C)`` or
                ``(H, W)``, unscaled.
            strategy: How it is tiled; decided from the image if ``None``.
            name: The file that the pixels come from, for messages.

        Returns:
            ``(H, W)`` labels in 0..K-1, uint8, or uint16 for more than 256 classes.
        """
        pixels = self._pixels(image, name)
        strategy = strategy or self.strategy(*pixels.shape[:2])
        steps = self.postprocessing
        if steps.needs_probabilities:
            return self.label(self.probabilities(pixels, strategy=strategy, name=name), pixels)
        labels = self.tiled.collect(self._reader(pixels), strategy, "labels")
        return clean_labels(labels, fill_holes=steps.fill_holes, min_area=steps.min_area) if steps else labels

    def probabilities(
        self, image: Path | str | Array, *, strategy: Strategy | None = None, name: Path | str | None = None
    ) -> npt.NDArray[np.float32]:
        """Give the probability of every class at every pixel.

        Args:
            image: As for :meth:`predict`.
            strategy: How it is tiled; decided from the image if ``None``.
            name: The file that the pixels come from, for messages.

        Returns:
            ``(K, H, W)`` float32, the sum over K is 1.
        """
        pixels = self._pixels(image, name)
        strategy = strategy or self.strategy(*pixels.shape[:2])
        found = self.tiled.collect(self._reader(pixels), strategy, "probabilities")
        return apply_temperature(found, self.temperature)

    def label(self, probabilities: npt.NDArray[np.float32], image: Array) -> Array:
        """Label by probabilities, post-processing included.

        Args:
            probabilities: ``(K, H, W)``, of :meth:`probabilities`.
            image: The pixels, as for :meth:`predict`.

        Returns:
            ``(H, W)`` labels.
        """
        pixels = image[:, :, None] if image.ndim == 2 else image
        return self.postprocessing.apply(probabilities, pixels, self.classes.names, scale=self.normalization.scale)

    def variance(
        self, image: Path | str | Array, *, strategy: Strategy | None = None, name: Path | str | None = None
    ) -> npt.NDArray[np.float32]:
        """Say where the views of an image disagree.

        Args:
            image: As for :meth:`predict`.
            strategy: How it is tiled; decided from the image if ``None``.
            name: The file that the pixels come from, for messages.

        Returns:
            ``(1, H, W)`` float32: the variance of the probabilities over the views, summed over the classes.
        """
        pixels = self._pixels(image, name)
        strategy = strategy or self.strategy(*pixels.shape[:2])
        return collect_blocks(ViewVariance(self.tiled), self._reader(pixels), strategy, "probabilities")

    def first_window(self, image: Array, strategy: Strategy, *, name: Path | str | None = None) -> Array:
        """Give the first window of an image as the network sees it, to time engines on.

        Args:
            image: As for :meth:`predict`.
            strategy: How it is tiled.
            name: The file that the pixels come from, for messages.

        Returns:
            ``(1, C, h, w)`` float32, normalised.
        """
        read = self._reader(self._pixels(image, name))
        tile, plan = strategy.plan[0], strategy.plan
        return read_padded(read, tile, plan.image, mirrored=plan.margin > 0)[None]

    def first_window_of(self, windows: TiffWindows, strategy: Strategy) -> Array:
        """Give the first window of a picture that is read in windows.

        Args:
            windows: The picture.
            strategy: How it is tiled.

        Returns:
            ``(1, C, h, w)`` float32, normalised.
        """
        tile, plan = strategy.plan[0], strategy.plan
        return read_padded(self._window_reader(windows), tile, plan.image, mirrored=plan.margin > 0)[None]

    def strategy(self, height: int, width: int, *, memory: int | None = None) -> Strategy:
        """Say how an image of a size would be computed.

        Args:
            height: Rows of the image.
            width: Columns of the image.
            memory: Bytes for one forward pass; the options' if ``None``.

        Returns:
            The strategy; ``str()`` of it is a line for a person.
        """
        return self.tiled.strategy(height, width, memory=memory)

    def blocks(
        self, windows: TiffWindows, strategy: Strategy, *, start: int = 0, seams: SeamReport | None = None
    ) -> Iterator[Block]:
        """Label a picture that is read in windows, part by part.

        Args:
            windows: The picture.
            strategy: How it is tiled.
            start: Parts that are there already.
            seams: Filled with what overlapping windows disagree about (``blend`` only).

        Yields:
            Parts that together cover the picture once.
        """
        bands = self.normalization.bands
        seen = [match_bands(windows.read(*place), bands, windows.path) for place in _samples(windows)]
        self._check_range(np.concatenate(seen), windows.path)

        yield from self.tiled.blocks(self._window_reader(windows), strategy, start=start, seams=seams)

    def _window_reader(self, windows: TiffWindows) -> Read:
        def read(top: int, left: int, height: int, width: int) -> Array:
            pixels = match_bands(windows.read(top, left, height, width), self.normalization.bands, windows.path)
            return self.normalization.apply(pixels)

        return read

    def _pixels(self, image: Path | str | Array, name: Path | str | None) -> Array:
        """Read and check one image; ``(H, W, C)`` as stored."""
        if isinstance(image, (Path, str)):
            name = image
            image = read_image(image, max_pixels=self.max_pixels)
        name = name or "the image"
        pixels = image[:, :, None] if image.ndim == 2 else image
        if pixels.ndim != 3 or 0 in pixels.shape:
            raise ShapeError(
                f"an image is (H, W, C) or (H, W) with at least one pixel, got an array of shape {image.shape}"
            )
        pixels = match_bands(pixels, self.normalization.bands, name)
        self._check_range(pixels, name)
        return pixels

    def _reader(self, pixels: Array) -> Read:
        """Normalise window by window: float pixels take four times the room of the stored ones."""
        return lambda top, left, height, width: self.normalization.apply(
            pixels[top : top + height, left : left + width]
        )

    def _check_range(self, pixels: Array, name: Path | str) -> None:
        """Refuse pixels that would surely be misread: another bit depth, or 0..1 where 0..255 was meant."""
        scale = self.normalization.scale
        kind = pixels.dtype.kind
        if kind == "b":
            raise ImageError(f"{name}: pixels are true or false; multiply them by {scale:g}", path=_path(name))
        if kind not in "iuf":
            raise ImageError(f"{name}: pixels are of type {pixels.dtype}, not numbers; convert them", path=_path(name))
        if kind == "u" and scale > 1 and float(np.iinfo(pixels.dtype).max) != scale:
            largest = float(pixels.max())
            if largest > scale or (scale > 255 and largest <= 255):
                bits = pixels.dtype.itemsize * 8
                raise ImageError(
                    f"{name}: {bits}-bit pixels up to {largest:g}, the model was trained on values of 0..{scale:g}; "
                    "bring them to that range",
                    path=_path(name),
                )
        if kind == "f" and scale > 1:
            finite = pixels[np.isfinite(pixels)]
            largest = float(finite.max()) if finite.size else 0.0
            if 0 < largest <= 1:
                raise ImageError(
                    f"{name}: float pixels up to {largest:g}, the model was trained on values of 0..{scale:g}; "
                    f"multiply them by {scale:g}",
                    path=_path(name),
                )


def _path(name: Path | str) -> Path | None:
    return None if name == "the image" else Path(name)


@torch.inference_mode()
def _fast(model: nn.Module, device: torch.device) -> nn.Module:
    """Fold batch norms and bring the model to the device, in the memory format that convolutions like best."""
    parts = model_parts(model)
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        side = fit_size(max(64, parts["geometry"].total_stride), parts["geometry"])
        generator = torch.Generator().manual_seed(0)
        model = fold_batch_norms(model, torch.randn((1, parts["in_channels"], side, side), generator=generator))
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def _samples(windows: TiffWindows) -> list[tuple[int, int, int, int]]:
    """Nine places spread over a picture, ``(top, left, height, width)``."""
    tall, wide = min(256, windows.height), min(256, windows.width)
    tops = sorted({0, (windows.height - tall) // 2, windows.height - tall})
    lefts = sorted({0, (windows.width - wide) // 2, windows.width - wide})
    return [(top, left, tall, wide) for top in tops for left in lefts]
