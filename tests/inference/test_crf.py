# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from denseg.errors import DensegError, ShapeError, UnknownNameError, UsageError
from denseg.inference import CRF_PRESETS, CRFasRNN, CRFParameters, dense_crf
from denseg.inference.crf import crf_features, find_crf


def scene(height: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture of flat regions with noise, and blurred probabilities of them with mistakes."""
    rng = np.random.default_rng(3)
    field = np.stack([gaussian_filter(rng.standard_normal((height, width)), 6) for _ in range(classes)])
    truth = field.argmax(axis=0)
    colors = rng.integers(20, 235, (classes, 3))
    image = np.clip(colors[truth] + rng.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)
    scores = np.stack([gaussian_filter((truth == k) + rng.normal(0, 1.2, truth.shape), 2.5) for k in range(classes)])
    weights = np.exp(scores * 6)
    return (weights / weights.sum(axis=0)).astype(np.float32), image, truth


def brute_force(probabilities: np.ndarray, image: np.ndarray, parameters: CRFParameters) -> np.ndarray:
    """Mean field with all pairs of pixels, straight from the equations, in float64."""
    classes, height, width = probabilities.shape
    kernels = []
    for features, weight in zip(
        crf_features(image, (height, width), parameters), (parameters.appearance, parameters.smoothness), strict=True
    ):
        f = features.astype(np.float64)
        gram = np.exp(-0.5 * np.maximum((f**2).sum(1)[:, None] + (f**2).sum(1)[None] - 2 * f @ f.T, 0))
        root = 1 / np.sqrt(gram.sum(axis=1))
        kernels.append(weight * gram * root[:, None] * root[None])
    mixed = kernels[0] + kernels[1]
    unary = np.log(np.clip(probabilities.reshape(classes, -1).T.astype(np.float64), 1e-5, 1))
    beliefs = np.exp(unary - unary.max(axis=1, keepdims=True))
    beliefs /= beliefs.sum(axis=1, keepdims=True)
    for _ in range(parameters.iterations):
        scores = unary + mixed @ beliefs
        beliefs = np.exp(scores - scores.max(axis=1, keepdims=True))
        beliefs /= beliefs.sum(axis=1, keepdims=True)
    return beliefs.T.reshape(classes, height, width)


@pytest.mark.parametrize("preset", ["deeplab_v2", "deeplab_v1", "crf_rnn", "pydensecrf"])
def test_labels_are_those_of_all_pairs(preset: str) -> None:
    probabilities, image, truth = scene(40, 56, 5)
    exact = brute_force(probabilities, image, CRF_PRESETS[preset])
    refined = dense_crf(probabilities, image, preset)
    assert (refined.argmax(0) == exact.argmax(0)).mean() >= 0.98
    assert np.abs(refined - exact).mean() < 0.02
    assert (refined.argmax(0) != probabilities.argmax(0)).mean() > 0.02  # it did something
    if preset != "pydensecrf":
        assert (refined.argmax(0) == truth).mean() > (probabilities.argmax(0) == truth).mean()


def test_result_is_a_distribution_and_inputs_stay() -> None:
    probabilities, image, _ = scene(20, 31, 11)
    before = probabilities.copy(), image.copy()
    refined = dense_crf(probabilities, image)
    assert refined.dtype == np.float32
    assert refined.shape == probabilities.shape
    np.testing.assert_allclose(refined.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities, before[0])
    np.testing.assert_array_equal(image, before[1])
    np.testing.assert_array_equal(refined, dense_crf(probabilities, image, threads=1))


def test_identities() -> None:
    probabilities, image, _ = scene(20, 24, 4)
    np.testing.assert_allclose(dense_crf(probabilities, image, iterations=0), probabilities, atol=2e-5)
    silent = CRFParameters(10, 10, 0, smoothness=0)
    np.testing.assert_allclose(dense_crf(probabilities, image, silent), probabilities, atol=2e-5)
    order = [2, 0, 3, 1]  # classes have no order
    np.testing.assert_allclose(
        dense_crf(probabilities[order], image), dense_crf(probabilities, image)[order], atol=1e-5
    )
    turned = dense_crf(probabilities[:, :, ::-1].copy(), image[:, ::-1].copy())[:, :, ::-1]
    assert (turned.argmax(0) == dense_crf(probabilities, image).argmax(0)).mean() > 0.98


def test_forms_of_the_image() -> None:
    probabilities, image, _ = scene(20, 24, 4)
    expected = dense_crf(probabilities, image)
    np.testing.assert_array_equal(dense_crf(probabilities, image.transpose(2, 0, 1)), expected)
    np.testing.assert_array_equal(dense_crf(probabilities, image.astype(np.float32)), expected)
    tensor = dense_crf(torch.from_numpy(probabilities), torch.from_numpy(image))
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), expected)
    gray = dense_crf(probabilities, image[:, :, 0])
    np.testing.assert_array_equal(gray, dense_crf(probabilities, image[:, :, :1]))
    assert dense_crf(probabilities[:, :1, :1], image[:1, :1]).shape == (4, 1, 1)


def test_presets_are_those_of_the_papers() -> None:
    rows = {name: tuple(preset.to_json().values()) for name, preset in CRF_PRESETS.items()}
    assert rows == {
        "deeplab_v1": (49, 5, 4, 3, 3, 10),
        "deeplab_v1_grid": (50, 10, 5, 3, 3, 10),
        "deeplab_v1_noup": (60, 20, 10, 3, 3, 10),
        "deeplab_camvid": (50, 3, 5, 3, 3, 10),
        "deeplab_v2": (67, 3, 4, 1, 3, 10),
        "deconvnet": (20, 3, 5, 3, 3, 10),
        "crf_rnn": (160, 3, 5, 3, 3, 10),
        "pydensecrf": (80, 13, 10, 3, 3, 5),
    }
    assert CRFParameters.from_json(find_crf("deconvnet").to_json()) == CRF_PRESETS["deconvnet"]


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda p, i: dense_crf(p[0], i), ShapeError, "probabilities of a CRF are (K, H, W), got (6, 7)"),
        (
            lambda p, i: dense_crf(p, i[:-1]),
            ShapeError,
            "the image of a CRF is (H, W, C) with the 6 x 7 pixels of the probabilities, got (5, 7, 3)",
        ),
        (
            lambda p, i: dense_crf(p, i / 255.0),
            UsageError,
            "the image of a CRF has values of 0..255, got 0..0.784314; multiply it by 255",
        ),
        (lambda p, i: CRFParameters(0, 3, 4), UsageError, "theta_alpha of a CRF must be a positive number, got 0"),
        (
            lambda p, i: dense_crf(p, i, iterations=-1),
            UsageError,
            "iterations of a CRF must be at least 0, got -1",
        ),
        (
            lambda p, i: dense_crf(p, i, "deeplab_v3"),
            UnknownNameError,
            "no CRF preset named 'deeplab_v3'. Did you mean 'deeplab_v2'? Known: crf_rnn, deconvnet, deeplab_camvid, "
            "deeplab_v1, deeplab_v1_grid, deeplab_v1_noup, deeplab_v2, pydensecrf",
        ),
        (
            lambda p, i: CRFParameters.from_json({"theta": 3}),
            UnknownNameError,
            "no CRF parameter named 'theta'. Did you mean 'theta_beta'? Known: appearance, iterations, smoothness, "
            "theta_alpha, theta_beta, theta_gamma",
        ),
    ],
)
def test_mistakes_are_said(call, kind: type[DensegError], message: str) -> None:  # type: ignore[no-untyped-def]
    probabilities = np.full((2, 6, 7), 0.5, np.float32)
    image = np.full((6, 7, 3), 200, np.uint8)
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        call(probabilities, image)


def test_layer_with_first_weights_is_dense_crf() -> None:
    probabilities, image, _ = scene(18, 21, 5)
    parameters = replace(CRF_PRESETS["deeplab_v2"], iterations=4)
    layer = CRFasRNN(5, parameters, normalize="symmetric").eval()
    logits = torch.from_numpy(np.log(np.clip(probabilities, 1e-5, 1)))[None]
    images = torch.from_numpy(image).permute(2, 0, 1)[None]
    refined = layer(logits, images).softmax(dim=1)[0].detach().numpy()
    np.testing.assert_allclose(refined, dense_crf(probabilities, image, parameters), atol=1e-5)


def test_layer_learns_and_its_gradients_are_right() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = CRFasRNN(3, training_iterations=2).double()
    logits = torch.randn((2, 3, 4, 5), generator=generator, dtype=torch.float64, requires_grad=True)
    images = torch.randint(0, 255, (2, 3, 4, 5), generator=generator).double()
    weights = [layer.smoothness, layer.appearance, layer.compatibility]

    def run(scores: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        names = ("smoothness", "appearance", "compatibility")
        result: torch.Tensor = torch.func.functional_call(
            layer, dict(zip(names, values, strict=True)), (scores, images)
        )
        return result

    starts = tuple((weight.detach() + 0.1).requires_grad_() for weight in weights)
    assert torch.autograd.gradcheck(run, (logits, *starts))
    layer(logits, images).square().sum().backward()
    assert all(weight.grad is not None and bool((weight.grad != 0).any()) for weight in weights)
    both = layer(logits, images)
    torch.testing.assert_close(both[1], layer(logits[1:], images[1:])[0])  # a batch is its images


def test_layer_iterations_follow_the_mode() -> None:
    layer = CRFasRNN(2)
    assert (layer.training_iterations, layer.iterations) == (5, 10)
    logits, images = torch.randn(1, 2, 6, 6), torch.randint(0, 255, (1, 3, 6, 6)).float()
    layer.iterations, layer.training_iterations = 0, 0
    torch.testing.assert_close(layer(logits, images), logits)


def test_layer_says_wrong_shapes() -> None:
    layer = CRFasRNN(2)
    with pytest.raises(ShapeError, match=r"^logits must be \(B, 2, H, W\), got \(1, 3, 6, 6\)$"):
        layer(torch.zeros(1, 3, 6, 6), torch.zeros(1, 3, 6, 6))
    message = r"^images must be \(B, C, H, W\) of the same B, H and W as logits \(1, 2, 6, 6\), got \(1, 3, 6, 5\)$"
    with pytest.raises(ShapeError, match=message):
        layer(torch.zeros(1, 2, 6, 6), torch.zeros(1, 3, 6, 5))
