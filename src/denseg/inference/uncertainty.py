# SPDX-License-Identifier: Apache-2.0
"""Where a model is not sure: of what it sees, of the view it has, of itself.

Definitions:
    ``entropy``: of the probabilities, over the logarithm of the number of classes: 0 sure, 1 no idea.
    ``margin``: one minus the lead of the likeliest class over the second: 0 sure, 1 a tie.
    ``views``: variance of the probabilities over views of the image (as it is, mirrored, and what scales, flips and
    turns were asked for), summed over classes.
    ``dropout``: the same over networks with dropout left on (Y. Gal, Z. Ghahramani, "Dropout as a Bayesian
    Approximation", ICML 2016); networks without dropout have none.

Shape letters: K classes, H and W image height and width.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from torch import nn

from denseg.errors import UsageError
from denseg.files import make_folder, write_atomic
from denseg.inference.tiled import TiledModel, model_parts

if TYPE_CHECKING:
    from denseg.inference.predictor import Predictor

__all__ = ["check_dropout", "has_dropout", "uncertainty_maps", "write_uncertainty"]

Maps = dict[str, NDArray[np.float32]]

_DROPOUT = (nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def uncertainty_maps(
    predictor: Predictor,
    image: NDArray[Any],
    probabilities: NDArray[np.float32],
    *,
    dropout: int = 0,
    name: Path | str | None = None,
) -> Maps:
    """Map where a model is not sure of one image.

    Args:
        predictor: The model.
        image: ``(H, W, C)`` or ``(H, W)`` pixels as stored.
        probabilities: ``(K, H, W)``, what the predictor gave for the image.
        dropout: Networks drawn with dropout left on; 0: no such map.
        name: The image's file, for messages.

    Returns:
        ``entropy``, ``margin``, ``views`` and, where asked for, ``dropout``, each ``(H, W)`` float32.

    Raises:
        UsageError: Dropout is asked of a network that has none, or fewer than 2 networks.
    """
    classes = probabilities.shape[0]
    logs = np.log(np.maximum(probabilities, 1e-30))
    scale = math.log(classes) if classes > 1 else 1.0
    maps: Maps = {"entropy": (-(probabilities * logs).sum(axis=0) / scale).astype(np.float32)}
    if classes > 1:
        second, first = np.partition(probabilities, classes - 2, axis=0)[-2:]
        maps["margin"] = 1 - (first - second)
    else:
        maps["margin"] = np.zeros_like(maps["entropy"])
    mirrored = predictor.probabilities(np.ascontiguousarray(image[:, ::-1]), name=name)[..., ::-1]
    seen = np.stack([probabilities, mirrored])
    maps["views"] = seen.var(axis=0).sum(axis=0).astype(np.float32)
    if predictor.tiled.views is not None:
        inner = predictor.variance(image, name=name)[0]
        maps["views"] += inner
    if dropout:
        maps["dropout"] = _dropout_variance(predictor, image, dropout, name)
    return maps


def check_dropout(model: nn.Module, samples: int) -> None:
    """Refuse to draw networks where that makes no sense.

    Args:
        model: The network.
        samples: How many to draw.

    Raises:
        UsageError: Fewer than 2, or the network has no dropout.
    """
    if samples < 2:
        raise UsageError(f"a variance over networks needs at least 2 of them, got {samples}")
    if not has_dropout(model):
        raise UsageError("this network has no dropout, so it is one network only; leave --mc-dropout out")


def has_dropout(model: nn.Module) -> bool:
    """Say whether a network has dropout that does something."""
    return any(map(_drops, model.modules()))


def _drops(module: nn.Module) -> bool:
    """Whether a module drops values in training: a dropout layer, or one of ours with a probability of its own."""
    chance = module.p if isinstance(module, _DROPOUT) else getattr(module, "dropout", None)
    return isinstance(chance, float) and chance > 0


class _Drawn(nn.Module):
    """A network whose dropout is on while everything else is as in evaluation."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        with torch.inference_mode():  # folded weights were made in it
            self.model = copy.deepcopy(model)
        self.eval()
        for module in self.model.modules():
            module.training = _drops(module)  # the module alone, not what it holds

    def forward(self, images: torch.Tensor) -> Any:
        return self.model(images)


def write_uncertainty(path: Path, maps: Maps) -> None:
    """Write maps as the pages of a TIFF, each with its name as description.

    Args:
        path: Where; its folder is made.
        maps: ``(H, W)`` each.
    """
    make_folder(path.parent)

    def save(file: Any) -> None:
        with tifffile.TiffWriter(file) as writer:
            for name, values in maps.items():
                writer.write(values, description=name, compression="zlib", metadata=None)

    write_atomic(path, save)


def _dropout_variance(
    predictor: Predictor, image: NDArray[Any], samples: int, name: Path | str | None
) -> NDArray[np.float32]:
    """Variance of the probabilities over networks with dropout on; the same each time."""
    model = predictor.tiled.model
    check_dropout(model, samples)
    drawn = _Drawn(model)
    other = copy.copy(predictor)
    other.tiled = TiledModel(drawn, **model_parts(model), options=predictor.tiled.options)
    strategy = predictor.strategy(image.shape[0], image.shape[1])
    mean = total = np.zeros(0, np.float64)
    devices = [weight.device for weight in list(drawn.parameters())[:1] if weight.device.type == "cuda"]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        for count in range(1, samples + 1):  # Welford's running mean and sum of squares
            found = other.probabilities(image, strategy=strategy, name=name).astype(np.float64)
            if count == 1:
                mean, total = found, np.zeros_like(found)
                continue
            step = found - mean
            mean = mean + step / count
            total = total + step * (found - mean)
    variance: NDArray[np.float32] = (total / samples).sum(axis=0).astype(np.float32)
    return variance
