# SPDX-License-Identifier: Apache-2.0
"""The contract of every model of the catalog. An entry enters by itself; nothing here names one, but for exemptions.

Each entry is run in small: on a tiny backbone where it takes one, with a small ``width`` where it has that option.
"""

from __future__ import annotations

import fnmatch
import inspect
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from denseg.backbones import create_backbone
from denseg.inference.canvas import run_on_canvas
from denseg.inference.halo import measure_reach
from denseg.inference.strategy import TileOptions
from denseg.inference.tiled import TiledModel, model_parts
from denseg.models import MODELS, create_model, load_checkpoint, save_checkpoint, split_parameters
from denseg.types import Geometry, SegmentationOutput

K = 3
TINY_BACKBONE = "test_resnet"

CASES: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "fcn32s": ({"form": "paper", "width": 0.03},),  # fcn8s has all of them and two skips more
    "fcn16s": ({"backbone": TINY_BACKBONE},),
    "deconvnet": ({"form": "paper", "width": 0.03},),  # the modern form is the same class with padding
    "dilated_frontend": ({"width": 0.03}, {"form": "paper", "width": 0.03}),
    "dilated_context": ({"backbone": TINY_BACKBONE}, {"form": "paper", "width": 0.03}),
}
"""Options by model name, where the rule of ``_configurations`` does not fit."""

NOT_SHIFTING: Mapping[str, str] = {"pspnet": "the regions of its pyramid lie fixed on the map"}
"""Models whose scores do not move with the image, with the reason (``name`` or ``name/paper``)."""

NO_DYNAMIC_EXPORT: Mapping[str, str] = {}
"""Models that do not export with dynamic sizes, with the reason."""


class Case(NamedTuple):
    name: str
    options: Mapping[str, Any]

    def __str__(self) -> str:
        return "-".join([self.name, *(str(value) for value in self.options.values())])

    def build(self, **over: Any) -> nn.Module:
        torch.manual_seed(0)
        return create_model(self.name, **{"num_classes": K, "in_channels": 3, **self.options, **over})


def _configurations(name: str) -> Iterator[Mapping[str, Any]]:
    """Small forms of an entry: without backbone where it can do without, on a tiny backbone, the paper's form."""
    if name in CASES:
        yield from CASES[name]
        return
    entry = MODELS[name]
    for form, network in (("modern", entry.modern), ("paper", entry.paper)):
        if network is None:
            continue
        parameters = inspect.signature(network).parameters
        small: dict[str, Any] = {"width": 0.125} if "width" in parameters else {}
        if form == "paper":
            yield {"form": "paper", **small}
            continue
        needs = "backbone" in parameters and parameters["backbone"].default is inspect.Parameter.empty
        if entry.backbone is None and not needs:
            yield small
        if "backbone" in parameters:
            yield {"backbone": TINY_BACKBONE}


ALL = [Case(name, options) for name in MODELS for options in _configurations(name)]
MODERN = [case for case in ALL if case.options.get("form") != "paper"]
each = pytest.mark.parametrize("case", ALL, ids=str)
each_modern = pytest.mark.parametrize("case", MODERN, ids=str)


def sizes(geometry: Geometry) -> list[tuple[int, int]]:
    """Sizes that the model must take: any for modern forms, its own for a paper's."""
    if geometry.size_step == 1 and geometry.margin == 0:
        s = geometry.total_stride
        return [(1, 1), (1, 6), (9, 1), (2, 3), (s + 1, s - 1), (2 * s, s), (3 * s + 1, 2 * s + 3)]
    least = valid_size(geometry, geometry.min_size)
    return [(least, least), (least + geometry.size_step, least)]


def valid_size(geometry: Geometry, at_least: int) -> int:
    size = geometry.size_offset
    while size < max(at_least, geometry.min_size, 1):
        size += geometry.size_step
    return size


def small_size(geometry: Geometry) -> tuple[int, int]:
    """The size to train and export at: two steps of the deepest level on each side."""
    if geometry.size_step == 1 and geometry.margin == 0:
        return (2 * geometry.total_stride, 3 * geometry.total_stride)
    least = valid_size(geometry, geometry.min_size)
    return (least, least)


def images(model: nn.Module, size: tuple[int, int], batch: int = 1, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    return torch.randn(batch, model.in_channels, *size, generator=generator, dtype=torch.float64).to(dtype)


def check_output(model: nn.Module, output: SegmentationOutput, shape: torch.Size) -> None:
    margin = model.geometry.margin
    expected = (shape[0], model.num_classes, shape[2] - 2 * margin, shape[3] - 2 * margin)
    assert type(output) is SegmentationOutput
    assert output.logits.shape == expected
    assert isinstance(output.aux_logits, tuple)
    assert all(aux.shape == expected for aux in output.aux_logits)
    assert output.heatmap.shape[:2] == expected[:2]
    assert output.features.ndim == 4
    assert output.features.shape[0] == shape[0]
    for tensor in (output.logits, *output.aux_logits, output.heatmap, output.features):
        assert bool(torch.isfinite(tensor).all())


@each
def test_any_size_in_the_same_size_out(case: Case) -> None:
    model = case.build().eval()
    with torch.no_grad():
        for size in sizes(model.geometry):
            x = images(model, size)
            check_output(model, model(x), x.shape)


@each_modern
@pytest.mark.parametrize("channels", [1, 5])
def test_any_number_of_bands_and_classes(case: Case, channels: int) -> None:
    model = case.build(in_channels=channels, num_classes=1 if channels == 1 else 21).eval()
    x = images(model, (model.geometry.total_stride, 7))
    with torch.no_grad():
        check_output(model, model(x), x.shape)


@each
def test_a_batch_equals_its_images(case: Case, perturb: Callable[..., None]) -> None:
    model = case.build().double().eval()
    perturb(model)
    x = images(model, small_size(model.geometry), batch=2)
    with torch.no_grad():
        together = model(x)
        alone = [model(image[None]) for image in x]
    for index in (0, 1):
        torch.testing.assert_close(together.logits[index], alone[index].logits[0])
        torch.testing.assert_close(together.heatmap[index], alone[index].heatmap[0])
        for aux, aux_alone in zip(together.aux_logits, alone[index].aux_logits, strict=True):
            torch.testing.assert_close(aux[index], aux_alone[0])


@each_modern
def test_scores_move_with_the_image(
    case: Case, perturb: Callable[..., None], torus: Callable[[], Any], request: pytest.FixtureRequest
) -> None:
    if case.name in NOT_SHIFTING:
        request.applymarker(pytest.mark.xfail(reason=NOT_SHIFTING[case.name], strict=True))
    model = case.build().double().eval()
    perturb(model)
    stride = model.geometry.total_stride
    x = images(model, (3 * stride, 4 * stride))
    with torch.no_grad(), torus():
        still = model(x)
        moved = model(x.roll((stride, 2 * stride), (2, 3)))
    torch.testing.assert_close(moved.logits, still.logits.roll((stride, 2 * stride), (2, 3)))
    assert still.logits.std() > 1e-6, "scores that don't depend on the image move with anything"
    steps = [2 * stride * side // length for side, length in zip(still.heatmap.shape[2:], x.shape[2:], strict=True)]
    torch.testing.assert_close(moved.heatmap, still.heatmap.roll((steps[0] // 2, steps[1]), (2, 3)))


@each
def test_gradients_reach_every_parameter(case: Case, perturb: Callable[..., None]) -> None:
    model = case.build().double().train()
    perturb(model)
    model.zero_grad()
    output = model(images(model, small_size(model.geometry), batch=2))
    generator = torch.Generator().manual_seed(1)
    scores = (output.logits, *output.aux_logits)
    sum((torch.randn(s.shape, generator=generator, dtype=s.dtype) * s).sum() for s in scores).backward()
    table: Mapping[str, str] = sys.modules[type(model).__module__].NO_GRADIENT
    largest = max(p.grad.abs().max().item() for p in model.parameters() if p.grad is not None)
    for name, parameter in model.named_parameters():
        reached = parameter.grad is not None and parameter.grad.abs().max().item() > 1e-9 * largest
        reasons = [reason for pattern, reason in table.items() if fnmatch.fnmatchcase(name, pattern)]
        if reasons:
            assert not reached, f"{name} has a gradient, though NO_GRADIENT says: {reasons[0]}"
        else:
            assert reached, f"no gradient reaches {name}; mend it or name it in NO_GRADIENT with the reason"


@each
@pytest.mark.parametrize("tiny", [False, True], ids=["small", "1x1"])
def test_training_works_at_batch_1(case: Case, tiny: bool) -> None:
    model = case.build().train()
    x = images(model, sizes(model.geometry)[0] if tiny else small_size(model.geometry))
    output = model(x)
    check_output(model, output, x.shape)
    (output.logits.square().mean() + sum(aux.square().mean() for aux in output.aux_logits)).backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
    assert all(bool(torch.isfinite(b).all()) for b in model.buffers() if b.is_floating_point())


@each
def test_training_and_evaluation_return_the_same_form_and_leave_the_input(case: Case) -> None:
    model = case.build()
    x = images(model, small_size(model.geometry), batch=2)
    before = x.clone()
    with torch.no_grad():
        trained = model.train()(x)
        state = torch.get_rng_state()
        evaluated = model.eval()(x)
        again = model(x)
    assert torch.equal(state, torch.get_rng_state()), "evaluation draws random numbers"
    assert torch.equal(x, before)
    assert torch.equal(evaluated.logits, again.logits)
    assert [t.shape for t in flatten(trained)] == [t.shape for t in flatten(evaluated)]
    assert type(trained) is type(evaluated) is SegmentationOutput


def flatten(output: SegmentationOutput) -> list[Tensor]:
    return [output.logits, *output.aux_logits, output.heatmap, output.features]


@each
def test_the_same_seed_builds_the_same_model(case: Case) -> None:
    first, second = case.build().state_dict(), case.build().state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@each
def test_saved_and_loaded_it_scores_the_same(case: Case, tmp_path: Path, perturb: Callable[..., None]) -> None:
    model = case.build().eval()
    perturb(model)
    assert json.loads(json.dumps(model.spec.arguments)) == dict(model.spec.arguments)
    save_checkpoint(model, tmp_path / "x.safetensors")
    loaded = load_checkpoint(tmp_path / "x.safetensors").model
    assert (loaded.spec, loaded.geometry) == (model.spec, model.geometry)
    x = images(model, sizes(model.geometry)[-1])
    with torch.no_grad():
        for ours, theirs in zip(flatten(model(x)), flatten(loaded(x)), strict=True):
            assert torch.equal(ours, theirs)


@each
def test_every_parameter_belongs_to_one_part(case: Case) -> None:
    model = case.build()
    parts = split_parameters(model)
    assert sorted(name for names in parts.values() for name in names) == sorted(n for n, _ in model.named_parameters())
    assert parts["head"]


@each_modern
def test_memory_format_does_not_change_scores(case: Case) -> None:
    model = case.build().double().eval()
    x = images(model, small_size(model.geometry), batch=2)
    with torch.no_grad():
        plain = model(x)
        last = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last.logits, plain.logits)


@each
def test_bfloat16_autocast_is_finite(case: Case) -> None:
    model = case.build().train()
    x = images(model, small_size(model.geometry), batch=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(x)
    check_output(model, output, x.shape)
    (output.logits.float().square().mean() + sum(a.float().square().mean() for a in output.aux_logits)).backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


def dynamic(model: nn.Module, *, multiple: int) -> dict[str, Any]:
    """Which sides of ``images`` an export leaves open."""
    if model.geometry.size_step > 1:  # a paper's form has its own sizes: the batch alone is open
        return {"images": {0: torch.export.Dim("batch", min=1, max=64)}}
    rows, columns = (torch.export.Dim(name, min=1, max=4096 // multiple) for name in ("rows", "columns"))
    if multiple > 1:
        rows, columns = multiple * rows, multiple * columns
    return {"images": {0: torch.export.Dim("batch", min=1, max=64), 2: rows, 3: columns}}


@each
def test_torch_export_agrees(case: Case, perturb: Callable[..., None]) -> None:
    model = case.build().eval()
    perturb(model)
    size = small_size(model.geometry)
    program = torch.export.export(
        model, (images(model, size, batch=2),), dynamic_shapes=dynamic(model, multiple=model.geometry.total_stride)
    )
    other = size if model.geometry.size_step > 1 else (size[0] * 2, size[1])
    x = images(model, other, batch=3, seed=1)
    with torch.no_grad():
        ours, theirs = model(x), program.module()(x)
    assert isinstance(theirs, SegmentationOutput)
    torch.testing.assert_close(theirs.logits, ours.logits, rtol=1e-4, atol=1e-5)


class Logits(nn.Module):
    """What an exported file gives: the logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits


@each
def test_onnx_agrees_at_any_size(case: Case, tmp_path: Path, perturb: Callable[..., None]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = case.build().eval()
    perturb(model)
    size = small_size(model.geometry)
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            Logits(model), (images(model, size, batch=2),), dynamo=True, dynamic_shapes=dynamic(model, multiple=1),
            input_names=["images"], output_names=["logits"], verbose=False,
        )  # fmt: skip
        program.save(str(path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    others = [size] if model.geometry.size_step > 1 else [size, (size[0] + 5, size[1] + 1), (7, 9)]
    for batch, other in enumerate(others, start=1):
        x = images(model, other, batch=batch, seed=batch)
        with torch.no_grad():
            ours = model(x).logits.numpy()
        theirs = session.run(["logits"], {"images": x.numpy()})[0]
        assert theirs.shape == ours.shape
        np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4 * max(ours.std(), 1e-3))


@pytest.mark.gpu
@each
def test_the_gpu_agrees(case: Case, perturb: Callable[..., None]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = case.build().double().eval()
    perturb(model)
    x = images(model, small_size(model.geometry))
    with torch.no_grad():
        ours = model(x).logits
        theirs = model.cuda()(x.cuda()).logits.cpu()
    torch.testing.assert_close(theirs, ours)


def test_the_tiny_backbone_is_tiny() -> None:
    backbone = create_backbone(TINY_BACKBONE)
    assert sum(p.numel() for p in backbone.parameters()) < 1_000_000


@each
def test_tiles_equal_the_whole_image_or_say_that_they_do_not(case: Case) -> None:
    """A network with a bounded reach gives in tiles what it gives whole; one without says so and is blended."""
    model = case.build().eval()
    geometry: Geometry = model.geometry
    stride = geometry.total_stride
    reach = None if geometry.margin else measure_reach(model, in_channels=3, multiple=stride)
    if geometry.margin:
        lost = geometry.margin + geometry.seam
        tile = valid_size(geometry, 2 * lost + 3 * geometry.size_step)
        height, width = 2 * geometry.seam + 3 * geometry.size_step + 5, 2 * geometry.seam + 6 * geometry.size_step + 1
    elif reach is not None and reach.halo is not None:
        tile = 2 * reach.halo + 2 * stride
        height, width = tile + 3 * stride + 1, stride + 3
    else:
        tile = 4 * stride
        height, width = 5 * stride + 1, 4 * stride + 3
    image = torch.randn((3, height, width), generator=torch.Generator().manual_seed(1))
    tiled = TiledModel(model, **model_parts(model), reach=reach, options=TileOptions(tile=tile))
    strategy = tiled.strategy(height, width)
    assert len(strategy.plan) > 1
    probabilities = tiled.probabilities(image.numpy(), strategy=strategy)
    assert strategy.exact == (reach is None or reach.exact)
    if strategy.exact:
        with torch.inference_mode():
            whole = run_on_canvas(model, image[None], geometry).logits[0].softmax(dim=0)
        assert np.abs(probabilities - whole.numpy()).max() < 1e-5
    else:
        assert strategy.mode == "blend"
        assert np.abs(probabilities.sum(axis=0) - 1).max() < 1e-5
