# SPDX-License-Identifier: Apache-2.0
"""DeconvNet against its layers written out with torch's own unpooling, and its figures."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseg.errors import UsageError
from denseg.models import create_model
from denseg.types import Geometry


def small(form: str = "paper") -> Any:
    torch.manual_seed(0)
    model = create_model("deconvnet", num_classes=3, form=form, width=0.03).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.01, 0.1)
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight)
    return model


@pytest.mark.parametrize("form", ["paper", "modern"])
def test_parameters(form: str) -> None:
    with torch.device("meta"):
        model = create_model("deconvnet", num_classes=21, form=form)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    in_norms = sum(parameter.numel() for norm in norms for parameter in norm.parameters())
    whole = sum(parameter.numel() for parameter in model.parameters())
    encoder = sum(p.numel() for n, p in model.backbone.named_parameters() if not n.startswith("norm"))
    assert (len(norms), in_norms, whole - in_norms) == (29, 33_408, 251_772_245)
    assert (encoder, whole - in_norms - encoder) == (134_260_544, 117_511_701)


def written_out(model: Any, images: Tensor) -> Tensor:
    state = model.state_dict()

    def layer(x: Tensor, part: str, name: str, run: Any, padding: int) -> Tensor:
        x = run(x, state[f"{part}.{name}.weight"], state[f"{part}.{name}.bias"], padding=padding)
        norm = {key: state[f"{part}.norm_{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")}
        return F.relu(F.batch_norm(x, **norm, eps=1e-9))

    x, switches = images, []
    for stage, convs in enumerate((2, 2, 3, 3, 3), start=1):
        for n in range(1, convs + 1):
            x = layer(x, "backbone", f"conv{stage}_{n}", F.conv2d, 1)
        x, indices = F.max_pool2d(x, 2, return_indices=True)
        switches.append(indices)
    x = layer(layer(x, "backbone", "fc6", F.conv2d, 0), "backbone", "fc7", F.conv2d, 0)
    x = layer(x, "decoder", "fc6_deconv", F.conv_transpose2d, 0)
    for stage, convs in ((5, 3), (4, 3), (3, 3), (2, 2), (1, 2)):
        x = F.max_unpool2d(x, switches.pop(), 2)
        for n in range(1, convs + 1):
            x = layer(x, "decoder", f"deconv{stage}_{n}", F.conv_transpose2d, 1)
    return F.conv2d(x, state["classifier.weight"], state["classifier.bias"])


@pytest.mark.parametrize("size", [(224, 224), (256, 224)])
def test_equal_to_its_layers_written_out(size: tuple[int, int]) -> None:
    model = small()
    images = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        logits = model(images).logits
        assert logits.std() > 1e-3
        torch.testing.assert_close(logits, written_out(model, images))


def test_a_window_becomes_one_vector_in_between() -> None:
    model = small()
    with torch.no_grad():
        deepest, switches = model.backbone(torch.randn(1, 3, 224, 224, dtype=torch.float64))
    assert deepest.shape[2:] == (1, 1)
    assert [tuple(where.shape[2:]) for where in switches] == [(112, 112), (56, 56), (28, 28), (14, 14), (7, 7)]


@pytest.mark.parametrize("form", ["paper", "modern"])
def test_any_size(form: str) -> None:
    model = small(form)
    assert model.geometry == Geometry(score_stride=1, total_stride=32)
    with torch.no_grad():
        for size in ((1, 1), (33, 64), (224, 250)):
            assert model(torch.randn(1, 3, *size, dtype=torch.float64)).logits.shape == (1, 3, *size)
        assert model.decoder(*model.backbone(torch.zeros(1, 3, 32, 64).double())).shape[2:] == (32, 64)


def test_the_papers_initialisation() -> None:
    model = create_model("deconvnet", num_classes=3, form="paper", width=0.1)
    assert model.backbone.fc6.weight.std().item() == pytest.approx(0.01, rel=0.02)
    norm = model.decoder.norm_deconv3_1
    assert (norm.eps, norm.bias[0].item(), norm.weight[0].item()) == (1e-9, pytest.approx(0.001), 1.0)


def test_errors() -> None:
    for options, expected in (
        ({"width": 0.0}, "width must be above 0, got 0.0"),
        ({"bottleneck": "none"}, "bottleneck is 'same' or 'valid', got 'none'"),
    ):
        with pytest.raises(UsageError, match=f"^{re.escape(expected)}$"):
            create_model("deconvnet", num_classes=3, **options)
