# SPDX-License-Identifier: Apache-2.0
"""``Segmenter``: train, load and predict in three calls from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from denseg.inference import Predictor
from denseg.types import ClassTable
from denseg.workflows.train import train

__all__ = ["Segmenter"]


class Segmenter:
    """A trained model that labels images.

    Attributes:
        predictor: What does the work.
        path: The run folder or checkpoint that it came from.
    """

    def __init__(self, predictor: Predictor, *, path: Path) -> None:
        """Wrap a predictor; use :meth:`train` or :meth:`load`.

        Args:
            predictor: What does the work.
            path: The run folder or checkpoint that it came from.
        """
        self.predictor = predictor
        self.path = path

    @classmethod
    def train(
        cls,
        data: Path | str,
        *,
        out: Path | str | None = None,
        model: str | None = None,
        backbone: str | None = None,
        settings: Sequence[str] = (),
        device: str = "auto",
        progress: bool = True,
    ) -> Segmenter:
        """Train a model on a folder, as ``denseg train`` does, and load its best weights.

        Args:
            data: Folder with ``images/`` and ``masks/``.
            out: The run folder; ``runs/DATA-MODEL`` if ``None``. A run that is there already is gone on with.
            model: Catalog name.
            backbone: Name of the backbone.
            settings: ``key=value``, for example ``train.epochs=20``.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
            progress: Show how it goes, on stderr.

        Returns:
            The trained model.
        """
        result = train(
            data,
            out=out,
            model=model,
            backbone=backbone,
            settings=settings,
            device=device,
            resume=out is not None,
            progress=progress,
        )
        return cls.load(result.run.path, device=device)

    @classmethod
    def load(
        cls, path: Path | str, *, device: str = "auto", tile: int | None = None, overlap: int | None = None
    ) -> Segmenter:
        """Load a trained model.

        Args:
            path: A run folder (its best checkpoint) or one checkpoint.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
            tile: Side of the tiles in pixels; chosen from the memory if ``None``.
            overlap: Pixels that two tiles share; chosen from the model if ``None``.

        Returns:
            The model.
        """
        return cls(Predictor.load(path, device=device, tile=tile, overlap=overlap), path=Path(path))

    @property
    def classes(self) -> ClassTable:
        """Names and colours of the classes, index order."""
        return self.predictor.classes

    def predict(self, image: Path | str | npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Label one image.

        Args:
            image: A file, or pixels ``(H, W, C)`` or ``(H, W)`` in the range of the training images.

        Returns:
            ``(H, W)`` class numbers, uint8, or uint16 for more than 256 classes.
        """
        return self.predictor.predict(image)

    def probabilities(self, image: Path | str | npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Give the probability of every class at every pixel.

        Args:
            image: As for :meth:`predict`.

        Returns:
            ``(K, H, W)`` float32, the sum over K is 1.
        """
        return self.predictor.probabilities(image)
