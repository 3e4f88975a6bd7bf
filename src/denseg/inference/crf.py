# SPDX-License-Identifier: Apache-2.0
"""Dense CRF: probabilities of a network are sharpened along the edges of the image.

Paper:
    P. Krähenbühl, V. Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011.
    https://arxiv.org/abs/1210.5644 - Equations 3 and 4, Algorithm 1.
Reference code:
    The authors' densecrf (not copied): every kernel is normalised symmetrically, the message that a pixel sends to
    itself is kept, features are pixel coordinates and colours 0..255 over their standard deviations.
Departures from the paper:
    As in the reference code and in all papers that use it: Potts labels only, and a pixel's message to itself stays.
Cost:
    Linear in pixels, classes and iterations: 500 x 375 pixels, 21 classes and 10 iterations take about half a second on
    two processors.

Shape letters: K classes, H and W image height and width, C bands, N = H * W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from denseg.errors import ShapeError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CRF_PRESETS", "CRFParameters", "crf_features", "dense_crf", "find_crf"]

Array = npt.NDArray[Any]
AnyArray = TypeVar("AnyArray", Array, "Tensor")

SMALLEST = 1e-5
"""Probabilities below are raised to it, so that no class is impossible."""


@dataclass(frozen=True)
class CRFParameters:
    """Two Gaussian kernels: appearance (place and colour) and smoothness (place alone).

    Attributes:
        theta_alpha: Standard deviation of the place in the appearance kernel, pixels.
        theta_beta: Standard deviation of the colour, of 0..255.
        appearance: Weight of the appearance kernel, w1.
        theta_gamma: Standard deviation of the place in the smoothness kernel, pixels.
        smoothness: Weight of the smoothness kernel, w2.
        iterations: Mean-field updates.
    """

    theta_alpha: float
    theta_beta: float
    appearance: float
    theta_gamma: float = 3.0
    smoothness: float = 3.0
    iterations: int = 10

    def __post_init__(self) -> None:
        for name in ("theta_alpha", "theta_beta", "theta_gamma"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"{name} of a CRF must be a positive number, got {getattr(self, name)}")
        if self.iterations < 0:
            raise UsageError(f"iterations of a CRF must be at least 0, got {self.iterations}")

    def to_json(self) -> dict[str, float]:
        """Give the values by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CRFParameters:
        """Build them from what ``to_json`` gave.

        Args:
            value: The mapping.

        Returns:
            The parameters.

        Raises:
            UnknownNameError: A name is not a parameter.
        """
        known = {field.name for field in fields(cls)}
        for name in value:
            if name not in known:
                raise UnknownNameError("CRF parameter", name, known)
        return cls(**value)


CRF_PRESETS: Mapping[str, CRFParameters] = MappingProxyType(
    {
        "deeplab_v1": CRFParameters(49, 5, 4),  # the LargeFOV script
        "deeplab_v1_grid": CRFParameters(50, 10, 5),  # where the authors' grid search starts
        "deeplab_v1_noup": CRFParameters(60, 20, 10),  # vgg128_noup, the first release
        "deeplab_camvid": CRFParameters(50, 3, 5),
        "deeplab_v2": CRFParameters(67, 3, 4, theta_gamma=1),
        "deconvnet": CRFParameters(20, 3, 5),
        "crf_rnn": CRFParameters(160, 3, 5),
        "pydensecrf": CRFParameters(80, 13, 10, iterations=5),  # the example everybody starts from; ConvCRF's too
    }
)
"""The parameters that papers and their released code use, by name."""


def find_crf(preset: str | CRFParameters) -> CRFParameters:
    """Find parameters by name.

    Args:
        preset: A name in ``CRF_PRESETS``, or parameters, which are given back.

    Returns:
        The parameters.

    Raises:
        UnknownNameError: There is no preset of that name.
    """
    if isinstance(preset, CRFParameters):
        return preset
    if preset not in CRF_PRESETS:
        raise UnknownNameError("CRF preset", preset, CRF_PRESETS)
    return CRF_PRESETS[preset]


def dense_crf(
    probabilities: AnyArray,
    image: Array | Tensor,
    preset: str | CRFParameters = "deeplab_v2",
    *,
    iterations: int | None = None,
    threads: int | None = None,
) -> AnyArray:
    """Refine the probabilities of one image by mean-field inference in a fully connected CRF.

    Args:
        probabilities: ``(K, H, W)``, softmax of a network; an array, or a tensor on any device.
        image: ``(H, W, C)``, ``(H, W)`` or ``(C, H, W)``, values of 0..255 in any number type.
        preset: A name in ``CRF_PRESETS``, or parameters of one's own.
        iterations: Mean-field updates, instead of the preset's.
        threads: All processors if ``None``; the result does not depend on it.

    Returns:
        ``(K, H, W)`` float32 probabilities, the sum over K is 1; a tensor where a tensor came.

    Raises:
        ShapeError: The probabilities are not ``(K, H, W)``, or the image has another size.
    """
    if not isinstance(probabilities, np.ndarray):
        import torch

        refined = dense_crf(
            probabilities.detach().cpu().float().numpy(), image, preset, iterations=iterations, threads=threads
        )
        return torch.from_numpy(refined).to(probabilities.device)
    if probabilities.ndim != 3 or 0 in probabilities.shape:
        raise ShapeError(f"probabilities of a CRF are (K, H, W), got {probabilities.shape}")
    parameters = find_crf(preset)
    if iterations is not None:
        parameters = replace(parameters, iterations=iterations)
    classes, height, width = probabilities.shape
    appearance, smoothness = crf_features(image, (height, width), parameters)
    from denseg.inference.mean_field import make_kernel, mean_field, thread_count  # numba: a third of a second

    unary = np.log(np.clip(probabilities.reshape(classes, -1).T, SMALLEST, 1.0, dtype=np.float32))  # (N, K)
    with ThreadPoolExecutor(threads or thread_count()) as pool:
        kernels = []
        for features, weight in ((smoothness, parameters.smoothness), (appearance, parameters.appearance)):
            if weight and parameters.iterations:
                kernels.append((make_kernel(features, pool=pool), weight))
        refined = mean_field(unary, kernels, iterations=parameters.iterations, pool=pool)  # (N, K)
    return np.ascontiguousarray(refined.T).reshape(classes, height, width)


def crf_features(
    image: Array | Tensor, size: tuple[int, int], parameters: CRFParameters
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Give what the two kernels compare.

    Args:
        image: ``(H, W, C)``, ``(H, W)`` or ``(C, H, W)``, values of 0..255.
        size: Height and width that the image must have.
        parameters: The standard deviations.

    Returns:
        Appearance ``(N, 2 + C)`` and smoothness ``(N, 2)``: column, row and bands over their standard deviations.

    Raises:
        ShapeError: The image has another size.
        UsageError: The image's values are 0..1.
    """
    pixels = image if isinstance(image, np.ndarray) else image.detach().cpu().numpy()
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    elif pixels.ndim == 3 and pixels.shape[:2] != size and pixels.shape[1:] == size:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[:2] != size:
        raise ShapeError(
            f"the image of a CRF is (H, W, C) with the {size[0]} x {size[1]} pixels of the probabilities, "
            f"got {tuple(image.shape)}"
        )
    if pixels.dtype.kind == "f" and 0 < float(pixels.max()) <= 1:
        raise UsageError(f"the image of a CRF has values of 0..255, got 0..{float(pixels.max()):g}; multiply it by 255")
    rows, columns = np.indices(size, np.float32)
    place = np.stack([columns, rows], axis=-1).reshape(-1, 2)  # (N, 2)
    colour = pixels.reshape(len(place), -1).astype(np.float32)  # (N, C)
    appearance = np.concatenate(
        [place / np.float32(parameters.theta_alpha), colour / np.float32(parameters.theta_beta)], axis=1
    )
    return appearance, place / np.float32(parameters.theta_gamma)
