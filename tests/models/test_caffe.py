# SPDX-License-Identifier: Apache-2.0
"""Weights laid out as in the released Caffe nets: random ones of the right shapes, by their names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from denseg.errors import CheckpointError, UnsupportedError, UsageError
from denseg.layers.bilinear_deconv import bilinear_kernel
from denseg.models import create_model
from denseg.models.caffe import caffe_names, load_caffe
from denseg.models.transplant import transplant

CASES: list[tuple[str, dict[str, Any]]] = [
    ("fcn32s", {"backbone": "vgg16"}),
    ("fcn8s", {"backbone": "vgg16"}),
    ("fcn8s", {"backbone": "vgg16", "upsampling": "all"}),
    ("fcn16s", {"backbone": "alexnet"}),
    ("fcn32s", {"backbone": "googlenet"}),
    ("dilated_frontend", {}),
    ("dilated_context", {}),
    ("dilated_context", {"layers": 10}),
    ("deconvnet", {}),
    ("unet", {"released": True, "in_channels": 1}),
]


def build(name: str, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return create_model(name, num_classes=3, form="paper", width=0.03, **options).eval()


def released(model: Any) -> dict[str, Tensor]:
    """A file as a converter writes it: Caffe's names, fc layers flat, blue first, fixed kernels between all pairs."""
    ours = {name: key for key, name in caffe_names(model).items()}
    tensors: dict[str, Tensor] = {}
    convs = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    for full, tensor in model.state_dict().items():
        layer, _, blob = full.rpartition(".")
        if blob == "num_batches_tracked":
            continue
        value = tensor.flip(1) if layer == convs[0] and blob == "weight" else tensor
        value = value.flatten(1) if layer.endswith(("fc6", "fc7")) and tensor.ndim == 4 else value
        tensors[f"{ours[layer]}.{blob}"] = value.clone()
    return tensors


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_the_net_scores_as_before(name: str, options: dict[str, Any]) -> None:
    first, second = build(name, **options), build(name, seed=1, **options)
    for parameter in first.parameters():
        nn.init.normal_(parameter, std=0.2)
    report = load_caffe(second, released(first))
    assert len(report.matched) == sum("num_batches" not in key for key in second.state_dict())
    assert report.unexpected == ()
    side = max(first.geometry.min_size, 64)
    images = torch.randn(1, first.in_channels, side, side)
    with torch.no_grad():
        assert torch.equal(first(images).logits, second(images).logits)


def test_the_names_are_the_released_ones() -> None:
    fcn = caffe_names(build("fcn8s", upsampling="all"))
    assert {"conv1_1", "fc6", "score_fr", "upscore2", "score_pool4", "upscore_pool4", "score_pool3", "upscore8"} <= set(
        fcn
    )
    assert {"conv1/7x7_s2", "conv2/3x3_reduce", "inception_4e/5x5_reduce", "inception_5b/pool_proj"} <= set(
        caffe_names(build("fcn32s", backbone="googlenet"))
    )
    context = caffe_names(build("dilated_context"))
    assert context["ctx_conv1_2"] == "context.convs.1"
    assert context["ctx_conv5_1"] == "context.convs.5"
    assert context["ctx_fc1"] == "context.convs.6"
    deconv = caffe_names(build("deconvnet"))
    assert {"bn1_1", "bnfc6", "fc6-deconv", "fc6-deconv-bn", "deconv5_1", "debn5_1", "seg-score-voc"} <= set(deconv)
    unet = caffe_names(build("unet", released=True))
    assert {"conv_d0a-b", "conv_d4b-c", "upconv_d4c_u3a", "upconv_u1d_u0a", "conv_u0c-d", "conv_u0d-score"} <= set(unet)


@pytest.mark.parametrize("dense", [True, False])
def test_fixed_kernels_of_the_file_are_let_go(dense: bool) -> None:
    model = build("fcn32s")
    kernel = bilinear_kernel(64)
    if dense:
        weight = torch.zeros(3, 3, 64, 64)
        weight[range(3), range(3)] = kernel
    else:
        weight = kernel.expand(3, 1, 64, 64).clone()
    report = load_caffe(model, released(model) | {"upscore.weight": weight, "other.weight": torch.zeros(1)})
    assert report.unexpected == ("other.weight",)
    weight[0, 0, 5, 5] += 1
    with pytest.raises(CheckpointError) as learned:
        load_caffe(model, released(model) | {"upscore.weight": weight})
    assert str(learned.value) == "upscore.weight was learned; build the model with upsampling='all' to hold it"


def test_errors() -> None:
    model = build("fcn32s")
    tensors = released(model)
    with pytest.raises(CheckpointError) as shape:
        load_caffe(model, tensors | {"score_fr.weight": torch.zeros(4, 123, 1, 1)})
    assert str(shape.value) == (
        "score_fr.weight has the shape (4, 123, 1, 1), score_fr.weight needs (3, 123, 1, 1); build the model with the "
        "classes and options of the net"
    )
    del tensors["conv5_3.bias"]
    with pytest.raises(CheckpointError) as missing:
        load_caffe(model, tensors)
    assert str(missing.value) == "the net lacks 1 of the model's tensors, for example backbone.conv5_3.bias"
    with pytest.raises(UnsupportedError) as other:
        caffe_names(build("unet"))
    assert str(other.value) == (
        "no Caffe net was released in the form of this PaperUNet; FCN, U-Net with released=True, the dilated front "
        "end, its context models and DeconvNet were"
    )
    with pytest.raises(UnsupportedError) as backbone:
        caffe_names(create_model("dilated_frontend", num_classes=3, backbone="test_resnet"))
    assert str(backbone.value) == "the released dilated networks stand on VGG16; leave the backbone out"


def classifier(width: int) -> nn.Module:
    """VGG16's layers with few channels, as torchvision lays them out."""
    layers: list[nn.Module] = []
    before = 3
    for count, channels in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
        for _ in range(count):
            layers += [nn.Conv2d(before, channels // width, 3, padding=1), nn.ReLU()]
            before = channels // width
    head = [nn.Linear(before * 49, 4096 // width), nn.Linear(4096 // width, 4096 // width), nn.Linear(4096 // width, 9)]
    return nn.Sequential(*layers, nn.Flatten(), *head)


@pytest.mark.parametrize(("name", "form"), [("fcn8s", "paper"), ("dilated_context", "modern"), ("deconvnet", "paper")])
def test_imagenet_weights_go_into_the_trunk(name: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = classifier(32)
    monkeypatch.setattr("denseg.models.transplant.create_with_weights", lambda create, name: source)
    model = create_model(name, num_classes=3, form=form, width=1 / 32, pretrained=True)
    wanted = [layer for layer in source.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    found = [layer for layer in model.get_submodule("backbone").modules() if isinstance(layer, nn.Conv2d)]
    assert len(found) == 15
    for ours, theirs in zip(found, wanted, strict=False):
        assert torch.equal(ours.weight.flatten(), theirs.weight.flatten())  # type: ignore[arg-type]
        assert torch.equal(ours.bias, theirs.bias)  # type: ignore[arg-type]
    assert "pretrained" not in model.spec.arguments


def test_transplant_errors() -> None:
    with pytest.raises(UsageError) as fit:
        transplant(nn.Conv2d(3, 4, 3), nn.Linear(5, 5))
    assert str(fit.value) == (
        "the classifier's layers do not fit: 1 convolutions of 108 weights are wanted, its first 1 layers have 25; "
        "ImageNet weights fit three bands and width 1 only"
    )
    with pytest.raises(UnsupportedError) as alexnet:
        create_model("fcn32s", num_classes=3, form="paper", width=0.03, backbone="alexnet", pretrained=True)
    assert str(alexnet.value) == (
        "ImageNet weights can be had of the trunk vgg16 only; torchvision's AlexNet and GoogLeNet are not the paper's, "
        "and serve form='modern'"
    )
