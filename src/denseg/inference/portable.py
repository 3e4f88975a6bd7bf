# SPDX-License-Identifier: Apache-2.0
"""Run an exported model with numpy and onnxruntime alone: images of any size, tiles included.

``denseg export`` writes this beside the model, as the last part of ``denseg_runtime.py``::

    from denseg_runtime import ExportedModel

    model = ExportedModel("model.onnx")
    labels = model.predict(image)  # (H, W, C) as stored, for example uint8; gives (H, W) class numbers

Letters: B batch, C bands, K classes, H and W image height and width, h and w of a window.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from denseg.errors import UsageError
from denseg.inference.blocks import Computer, collect_blocks
from denseg.inference.postprocess import PostProcessing, clean_labels, threshold_labels
from denseg.inference.runtime import Read
from denseg.inference.strategy import Strategy, TileOptions, choose_strategy

__all__ = ["ExportedModel", "OnnxScores"]

Array = npt.NDArray[Any]


class OnnxScores:
    """An ONNX file as a function; safe to call from several threads.

    Attributes:
        document: The JSON document in the file; empty where there is none.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None) -> None:
        """Open the file.

        Args:
            path: Written by ``denseg export``.
            threads: All processors if ``None``.

        Raises:
            UsageError: The file is not there or no ONNX model.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        try:
            self._session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class of its own for each of a dozen faults
            said = " ".join(str(error).split())[:200]
            raise UsageError(f"{path} cannot be opened as an ONNX model: {said}") from error
        text = self._session.get_modelmeta().custom_metadata_map.get("denseg", "{}")
        self.document: dict[str, Any] = json.loads(text)

    def __call__(self, images: Array) -> npt.NDArray[np.float32]:
        """Score images.

        Args:
            images: ``(B, C, H, W)`` float32.

        Returns:
            ``(B, K, H, W)`` logits (a model with a margin: its own size).
        """
        scores: npt.NDArray[np.float32] = self._session.run(["logits"], {"images": np.ascontiguousarray(images)})[0]
        return scores


class ExportedModel:
    """A model that ``denseg export`` wrote: any image in, labels out.

    Attributes:
        document: What the file says about itself.
        classes: Names of the classes.
        colors: ``(red, green, blue)`` of each class.
        options: What was said about tiles.
        num_classes: K.
        fill: What stands outside the image in a window: no data, which becomes the mean pixel.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        tile: int | None = None,
        overlap: int | None = None,
        memory: int = 2 << 30,
        threads: int | None = None,
    ) -> None:
        """Open a model.

        Args:
            path: The ``.onnx`` file.
            tile: Side of the windows in pixels; chosen from ``memory`` if ``None``.
            overlap: Pixels that two windows share; what makes tiles exact if ``None``.
            memory: Bytes that one window may take.
            threads: All processors if ``None``.

        Raises:
            UsageError: The file is no model of ``denseg export``.
        """
        self._scores = OnnxScores(path, threads=threads)
        self.document = self._scores.document
        if self.document.get("format") != 1:
            raise UsageError(f"{Path(path)} was not written by this version of denseg export; export the model again")
        self.classes: list[str] = self.document["classes"]["names"]
        self.colors: list[list[int]] = self.document["classes"]["colors"]
        self.num_classes = len(self.classes)
        self.options = TileOptions("auto", tile, overlap, memory, self.document["tiling"]["window"])
        self.fill = float("nan")
        self._geometry: Any = SimpleNamespace(**self.document["geometry"])
        normalization = self.document["normalization"]
        self._mean = np.asarray(normalization["mean"], np.float32) * np.float32(normalization["scale"])  # (C,)
        self._temperature = float((self.document.get("calibration") or {}).get("temperature", 1.0))

    @property
    def label_type(self) -> npt.DTypeLike:
        """``uint8``, or ``uint16`` for more than 256 classes."""
        return np.uint8 if self.num_classes <= 256 else np.uint16

    def strategy(self, height: int, width: int) -> Strategy:
        """Say how an image of a size is computed.

        Args:
            height: Rows of the image.
            width: Columns of the image.

        Returns:
            The strategy; ``str()`` of it is a line for a person.
        """
        tiling = self.document["tiling"]
        options = self.options
        if tiling["side"] is not None:  # the file takes windows of this size only
            options = TileOptions(options.mode, tiling["side"], options.overlap, options.memory, options.window)
        return choose_strategy(
            height,
            width,
            pixels=int(options.memory / tiling["bytes_per_pixel"]),
            geometry=self._geometry,
            multiple=tiling["multiple"],
            options=options,
            reach=lambda: (tiling["halo"], tiling["reason"]),
        )

    def predict(self, image: Array) -> Array:
        """Label an image.

        Args:
            image: ``(H, W, C)`` or ``(H, W)``, values as stored in the files of training.

        Returns:
            ``(H, W)`` class numbers, uint8, or uint16 for more than 256 classes.

        Raises:
            UsageError: The model needs what only denseg has.
        """
        stored = self.document.get("postprocessing") or {}
        if stored.get("crf"):
            raise UsageError(
                "the labels of this model need a dense CRF, which this runtime lacks; use probabilities(), "
                "or denseg predict"
            )
        steps = PostProcessing.from_json(stored)
        if steps.thresholds:
            labels = threshold_labels(self.probabilities(image), steps.thresholds, self.classes)
        else:
            read, size = self._reader(image)
            labels = collect_blocks(self._computer(), read, self.strategy(*size), "labels")
        return clean_labels(labels, fill_holes=steps.fill_holes, min_area=steps.min_area) if steps else labels

    def probabilities(self, image: Array) -> npt.NDArray[np.float32]:
        """Give the probability of every class at every pixel, calibrated where the model was.

        Args:
            image: As for :meth:`predict`.

        Returns:
            ``(K, H, W)`` float32, the sum over K is 1.
        """
        read, size = self._reader(image)
        found = collect_blocks(self._computer(), read, self.strategy(*size), "probabilities")
        if self._temperature != 1:
            found **= np.float32(1 / self._temperature)
            found /= found.sum(axis=0)
        result: npt.NDArray[np.float32] = found
        return result

    def compute_labels(self, windows: Array) -> Array:
        """Label windows.

        Args:
            windows: ``(B, C, h, w)`` float32, stored values; not-a-number where there is no data.

        Returns:
            ``(B, h, w)``.
        """
        labels: Array = self._run(windows).argmax(axis=1).astype(self.label_type)
        return labels

    def compute_probabilities(self, windows: Array) -> Array:
        """Give the probabilities of windows.

        Args:
            windows: ``(B, C, h, w)`` float32, stored values; not-a-number where there is no data.

        Returns:
            ``(B, K, h, w)``.
        """
        scores = self._run(windows)
        scores = scores - scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        probabilities: Array = scores / scores.sum(axis=1, keepdims=True)
        return probabilities

    def _computer(self) -> Computer:
        return self

    def _run(self, windows: Array) -> npt.NDArray[np.float32]:
        values = np.where(np.isfinite(windows), windows, self._mean[:, None, None])  # (B, C, h, w)
        height, width = values.shape[2:]
        side = self.document["tiling"]["side"]
        if side is None or (height, width) == (side, side):
            return self._scores(values)
        margin = self.document["geometry"]["margin"]
        padded = np.pad(values, ((0, 0), (0, 0), (0, side - height), (0, side - width)), mode="edge")
        return self._scores(padded)[:, :, : height - 2 * margin, : width - 2 * margin]

    def _reader(self, image: Array) -> tuple[Read, tuple[int, int]]:
        pixels = image[:, :, None] if image.ndim == 2 else image
        if pixels.ndim != 3 or 0 in pixels.shape or pixels.shape[2] != len(self._mean):
            raise UsageError(
                f"an image is (H, W, {len(self._mean)}) with at least one pixel, got an array of shape {image.shape}"
            )

        def read(top: int, left: int, height: int, width: int) -> Array:
            return pixels[top : top + height, left : left + width].transpose(2, 0, 1).astype(np.float32)

        return read, (pixels.shape[0], pixels.shape[1])
