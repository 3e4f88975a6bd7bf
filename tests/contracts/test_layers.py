# SPDX-License-Identifier: Apache-2.0
"""The contract of every layer of the catalog: ``(B, C, h, w)`` in, ``(B, C', h, w)`` out. An entry enters by itself.

What a layer means (identity or limit case, its own symmetry, an independent implementation) stands in its own tests.
"""

from __future__ import annotations

import fnmatch
import inspect
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from denseg.errors import ShapeError
from denseg.layers.catalog import LAYERS

C = 16
SMALL: Mapping[str, Any] = {"out_channels": 8, "bases": 5}
"""Options that make a layer small, where it has them."""

SIZES = [(1, 1), (1, 5), (3, 1), (2, 2), (6, 7)]

NOT_SHIFTING: Mapping[str, str] = {
    "pyramid_pooling": "its regions lie fixed on the map",
    "spatial_pyramid_pooling": "its bins lie fixed on the map",
}
"""Layers that treat positions differently, or whose border is not torch's own padding, with the reason."""

NO_GRADCHECK: Mapping[str, str] = {
    "expectation_maximization_attention": "the bases are found without gradient, as the paper's code has it",
}
"""Layers whose gradient leaves a part of the value out on purpose, with the reason."""

each = pytest.mark.parametrize("name", list(LAYERS))


def build(name: str, channels: int = C) -> nn.Module:
    torch.manual_seed(0)
    known = inspect.signature(LAYERS[name]).parameters
    return LAYERS[name](channels, **{key: value for key, value in SMALL.items() if key in known})


def features(size: tuple[int, int], batch: int = 1, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, C, *size, generator=generator, dtype=torch.float64).to(dtype)


@each
def test_any_size_in_the_same_size_out(name: str) -> None:
    layer = build(name).eval()
    channels = None
    with torch.no_grad():
        for size in SIZES:
            for batch in (1, 3):
                y = layer(features(size, batch))
                channels = channels or y.shape[1]
                assert y.shape == (batch, channels, *size)
                assert y.dtype == torch.float32
                assert bool(torch.isfinite(y).all())


@each
def test_a_batch_equals_its_images(name: str, perturb: Callable[..., None]) -> None:
    layer = build(name).double().eval()
    perturb(layer)
    x = features((6, 7), batch=3, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), torch.cat([layer(image[None]) for image in x]))


@each
def test_the_output_moves_with_the_input(
    name: str, perturb: Callable[..., None], torus: Callable[[], Any], request: pytest.FixtureRequest
) -> None:
    if name in NOT_SHIFTING:
        request.applymarker(pytest.mark.xfail(reason=NOT_SHIFTING[name], strict=True))
    layer = build(name).double().eval()
    perturb(layer)
    x = features((6, 7), dtype=torch.float64)
    with torch.no_grad(), torus():
        torch.testing.assert_close(layer(x.roll((2, 3), (2, 3))), layer(x).roll((2, 3), (2, 3)))


@each
def test_gradients_reach_every_parameter(name: str, perturb: Callable[..., None]) -> None:
    layer = build(name).double().train()
    perturb(layer)
    x = features((6, 7), batch=2, dtype=torch.float64).requires_grad_()
    y = layer(x)
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)).sum().backward()
    table: Mapping[str, str] = getattr(sys.modules[LAYERS[name].__module__], "NO_GRADIENT", {})
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    largest = max([p.grad.abs().max().item() for p in layer.parameters() if p.grad is not None], default=0)
    for parameter_name, parameter in layer.named_parameters():
        reached = parameter.grad is not None and parameter.grad.abs().max().item() > 1e-9 * largest
        reasons = [reason for pattern, reason in table.items() if fnmatch.fnmatchcase(parameter_name, pattern)]
        if reasons:
            assert not reached, f"{parameter_name} has a gradient, though NO_GRADIENT says: {reasons[0]}"
        else:
            assert reached, f"no gradient reaches {parameter_name}; mend it or name it in NO_GRADIENT with the reason"


@each
def test_the_gradient_is_that_of_the_value(
    name: str, perturb: Callable[..., None], request: pytest.FixtureRequest
) -> None:
    if name in NO_GRADCHECK:
        request.applymarker(pytest.mark.xfail(reason=NO_GRADCHECK[name], strict=True))
    layer = build(name).double().eval()
    perturb(layer)
    x = features((3, 2), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,), fast_mode=True)


@each
@pytest.mark.parametrize("size", [(1, 1), (5, 3)])
def test_training_works_at_batch_1(name: str, size: tuple[int, int]) -> None:
    layer = build(name).train()
    x = features(size).requires_grad_()
    y = layer(x)
    assert bool(torch.isfinite(y).all())
    y.square().mean().backward()
    gradients = [x.grad, *(p.grad for p in layer.parameters())]
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients if gradient is not None)
    assert all(bool(torch.isfinite(b).all()) for b in layer.buffers() if b.is_floating_point())


@each
def test_the_input_is_left_and_evaluation_is_the_same_each_time(name: str) -> None:
    layer = build(name)
    x = features((6, 7), batch=2)
    before = x.clone()
    with torch.no_grad():
        assert layer.train()(x).shape == layer.eval()(x).shape
        state = torch.get_rng_state()
        buffers = {key: value.clone() for key, value in layer.state_dict().items()}
        assert torch.equal(layer(x), layer(x))
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state), "evaluation draws random numbers"
    assert all(torch.equal(value, buffers[key]) for key, value in layer.state_dict().items())


@each
def test_weights_carry_everything_over(name: str, perturb: Callable[..., None]) -> None:
    layer, other = build(name).eval(), build(name).eval()
    perturb(layer)
    other.load_state_dict(layer.state_dict())
    x = features((6, 7))
    with torch.no_grad():
        assert torch.equal(layer(x), other(x))


@each
def test_bfloat16_autocast_is_finite(name: str) -> None:
    layer = build(name).train()
    x = features((6, 7), batch=2).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert bool(torch.isfinite(y).all())
    y.float().square().mean().backward()
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())


@each
def test_memory_format_does_not_change_the_output(name: str) -> None:
    layer = build(name).double().eval()
    x = features((6, 7), batch=2, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last)), layer(x))


@each
def test_onnx_agrees_at_any_size(name: str, tmp_path: Path, perturb: Callable[..., None]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    layer = build(name).eval()
    perturb(layer)
    batch, rows, columns = (torch.export.Dim(side, min=1, max=256) for side in ("batch", "rows", "columns"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            layer,
            (features((6, 7), batch=2),),
            dynamo=True,
            dynamic_shapes=({0: batch, 2: rows, 3: columns},),
            verbose=False,
        )
        program.save(str(tmp_path / "layer.onnx"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx", options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    for count, size in enumerate([(6, 7), (1, 1), (11, 4)], start=1):
        x = features(size, count, seed=count)
        with torch.no_grad():
            ours = layer(x).numpy()
        (theirs,) = session.run(None, {source.name: x.numpy()})
        np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4 * max(float(ours.std()), 1e-3))


@each
def test_other_shapes_are_refused(name: str) -> None:
    with pytest.raises(ShapeError, match=r"\(B, \w+, h, w\)"):
        build(name)(torch.zeros(C, 6, 7))


@each
def test_its_meaning_is_tested_in_its_own_file(name: str, repository: Path) -> None:
    source = LAYERS[name].__module__.rpartition(".")[2]
    text = (repository / "tests" / "layers" / f"test_{source}.py").read_text(encoding="utf-8")
    assert LAYERS[name].__name__ in text
