# SPDX-License-Identifier: Apache-2.0
"""The paper's FCNs against the released nets written out, and every figure of Table 1."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseg.errors import UnknownNameError, UsageError
from denseg.layers.bilinear_deconv import BilinearDeconv, bilinear_kernel
from denseg.models import create_model
from denseg.models.coordinates import Place
from denseg.models.trunk import CAFFENET, GOOGLENET, VGG16, Trunk, local_response_norm

NAMES = ("fcn32s", "fcn16s", "fcn8s")


def small(name: str, *, classes: int = 3, **options: Any) -> Any:
    """The paper's form with few channels and score layers that are not zero."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=classes, form="paper", width=0.03, **options).double().eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.bias, std=0.1)
        if module in list(model.children()) and isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.3)
    return model


def meta(name: str, **options: Any) -> Any:
    with torch.device("meta"):
        return create_model(name, num_classes=21, form="paper", **options)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "backbone", "offsets"),
    [
        ("fcn32s", "vgg16", (19,)),
        ("fcn16s", "vgg16", (5, 27)),
        ("fcn8s", "vgg16", (5, 9, 31)),
        ("fcn32s", "alexnet", (18,)),
    ],
)
def test_crop_offsets_follow_from_the_layers(name: str, backbone: str, offsets: tuple[int, ...]) -> None:
    assert meta(name, backbone=backbone).offsets == offsets


@pytest.mark.parametrize(
    ("backbone", "trunk", "whole", "field"),
    [
        ("vgg16", 134_260_544, 134_346_581, 404),
        ("alexnet", 56_868_224, 56_954_261, 355),
        ("googlenet", 5_973_552, 5_995_077, 715),
    ],
)
def test_table_1(backbone: str, trunk: int, whole: int, field: int) -> None:
    model = meta("fcn32s", backbone=backbone)
    assert (count(model.backbone), count(model), model.receptive_field) == (trunk, whole, field)
    assert model.geometry.total_stride == 32


def test_googlenets_receptive_field_with_its_average_pool_is_the_printed_one() -> None:
    with torch.device("meta"):
        place = Trunk(GOOGLENET).places["inception_5b"]
    assert (place.field, place.conv(7).field) == (715, 907)


@pytest.mark.parametrize(
    ("rows", "field", "last"), [(VGG16, 404, "fc7"), (CAFFENET, 355, "fc7"), (GOOGLENET, 715, "inception_5b")]
)
def test_receptive_fields_by_touch(rows: Any, field: int, last: str) -> None:
    """A pixel that is not a number shows in position 1 of the deepest map where it is within the field, only there."""
    first, *others = rows
    trunk = Trunk((first._replace(padding=100), *others), width=0.01).eval()
    place = trunk.places[last]
    start = int(32 + place.offset - (field - 1) / 2)
    side = start + field + 64
    for position, seen in ((start - 1, False), (start, True), (start + field - 1, True), (start + field, False)):
        if position >= 0:
            x = torch.ones(1, 3, side, 8)
            x[..., position, :] = float("nan")
            with torch.no_grad():
                deepest = trunk(x)[last]
            assert bool(deepest[0, :, 1].isnan().any()) == seen, position
    assert place.field == field


@pytest.mark.parametrize(
    ("upsampling", "extra"),
    [
        ("fixed", {"fcn32s": 0, "fcn16s": 10_773, "fcn8s": 16_170}),
        ("learned", {"fcn32s": 0, "fcn16s": 10_773 + 7_056, "fcn8s": 16_170 + 2 * 7_056}),
        (
            "all",
            {
                "fcn32s": 1_806_336,
                "fcn16s": 10_773 + 7_056 + 451_584,
                "fcn8s": 16_170 + 2 * 7_056 + 112_896,
            },
        ),
    ],
)
def test_parameters_of_skips_and_growth(upsampling: str, extra: dict[str, int]) -> None:
    for name, more in extra.items():
        assert count(meta(name, upsampling=upsampling)) == 134_346_581 + more


def test_the_score_layers_start_at_zero_and_the_trunk_does_not() -> None:
    model = create_model("fcn8s", num_classes=3, form="paper", width=0.03).eval()
    with torch.no_grad():
        assert not model(torch.randn(1, 3, 40, 50)).logits.any()
    for name in ("score_fr", "score_pool4", "score_pool3"):
        assert not model.get_submodule(name).weight.any()
    assert model.backbone.conv3_1.weight.std() > 0.01


def released(model: Any, name: str, images: Tensor, scales: dict[str, float] | None = None) -> Tensor:
    """The released VGG nets, layer by layer, with the crop offsets that their files hold."""
    weights = dict(model.named_parameters())
    maps: dict[str, Tensor] = {}
    x = images
    for stage, convs in enumerate((2, 2, 3, 3, 3), start=1):
        for n in range(1, convs + 1):
            padding = 100 if (stage, n) == (1, 1) else 1
            layer = f"backbone.conv{stage}_{n}"
            x = F.relu(F.conv2d(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"], padding=padding))
        x = F.max_pool2d(x, 2, 2, ceil_mode=True)
        maps[f"pool{stage}"] = x
    for layer in ("fc6", "fc7"):
        x = F.relu(F.conv2d(x, weights[f"backbone.{layer}.weight"], weights[f"backbone.{layer}.bias"]))

    def score(of: str, y: Tensor) -> Tensor:
        return F.conv2d(y * (scales or {}).get(of, 1.0), weights[f"score_{of}.weight"], weights[f"score_{of}.bias"])

    def grow(y: Tensor, stride: int) -> Tensor:
        classes = y.shape[1]
        kernel = torch.zeros(classes, classes, 2 * stride, 2 * stride, dtype=y.dtype)
        for index in range(classes):
            kernel[index, index] = bilinear_kernel(2 * stride)
        return F.conv_transpose2d(y, kernel, stride=stride)

    def crop(y: Tensor, start: int, like: Tensor) -> Tensor:
        return y[..., start : start + like.shape[2], start : start + like.shape[3]]

    y = score("fr", x)
    if name == "fcn32s":
        return crop(grow(y, 32), 19, images)
    y = grow(y, 2)
    y = y + crop(score("pool4", maps["pool4"]), 5, y)
    if name == "fcn16s":
        return crop(grow(y, 16), 27, images)
    y = grow(y, 2)
    y = y + crop(score("pool3", maps["pool3"]), 9, y)
    return crop(grow(y, 8), 31, images)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (45, 64), (71, 33)])
def test_equal_to_the_released_net_written_out(name: str, size: tuple[int, int]) -> None:
    model = small(name)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(images).logits, released(model, name, images))


def test_at_once_scales_the_pools() -> None:
    model = small("fcn8s", at_once=True)
    images = torch.randn(1, 3, 40, 50, dtype=torch.float64)
    with torch.no_grad():
        expected = released(model, "fcn8s", images, {"pool4": 0.01, "pool3": 0.0001})
        torch.testing.assert_close(model(images).logits, expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("upsampling", ["learned", "all"])
def test_learned_growth_starts_as_the_fixed_one(name: str, upsampling: str) -> None:
    fixed, learned = small(name), small(name, upsampling=upsampling)
    learned.load_state_dict(fixed.state_dict(), strict=False)
    images = torch.randn(1, 3, 40, 50, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(learned(images).logits, fixed(images).logits)


def test_caffenet_written_out() -> None:
    model = small("fcn32s", backbone="alexnet")
    weights = dict(model.named_parameters())
    images = torch.randn(1, 3, 47, 61, dtype=torch.float64)

    def conv(x: Tensor, name: str, **options: Any) -> Tensor:
        return F.relu(F.conv2d(x, weights[f"backbone.{name}.weight"], weights[f"backbone.{name}.bias"], **options))

    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    with torch.no_grad():
        norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)
        x = norm(pool(conv(images, "conv1", stride=4, padding=100)))
        x = norm(pool(conv(x, "conv2", padding=2, groups=2)))
        x = conv(conv(x, "conv3", padding=1), "conv4", padding=1, groups=2)
        x = pool(conv(x, "conv5", padding=1, groups=2))
        x = conv(conv(x, "fc6"), "fc7")
        x = F.conv2d(x, weights["score_fr.weight"], weights["score_fr.bias"])
        x = F.conv_transpose2d(x, bilinear_kernel(63).double().expand(3, 1, 63, 63), stride=32, groups=3)
        torch.testing.assert_close(model(images).logits, x[..., 18 : 18 + 47, 18 : 18 + 61])


@pytest.mark.parametrize("backbone", ["vgg16", "alexnet", "googlenet"])
@pytest.mark.parametrize("name", NAMES)
def test_any_size_with_any_trunk(name: str, backbone: str) -> None:
    model = small(name, backbone=backbone)
    stride = model.geometry.score_stride
    with torch.no_grad():
        for height, width in ((1, 7), (33, 64)):
            output = model(torch.randn(1, 3, height, width, dtype=torch.float64))
            assert output.logits.shape == (1, 3, height, width)
            assert output.heatmap.shape == (1, 3, -(-height // stride), -(-width // stride))


@pytest.mark.parametrize("name", NAMES)
def test_the_heatmap_lies_on_the_image(name: str) -> None:
    """Bright where the image is: one bright pixel shows at the heatmap's position that is nearest to it."""
    model = small(name, classes=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.abs())
        stride = model.geometry.score_stride
        images = torch.zeros(1, 3, 320, 320, dtype=torch.float64)
        still = model(images).heatmap
        images[..., 200:204, 120:124] = 100.0
        change = (model(images).heatmap - still)[0, 0]
    centre = (change / change.sum()).nan_to_num()
    places = torch.arange(change.shape[0], dtype=torch.float64) * stride + (stride - 1) / 2
    assert abs((centre.sum(1) * places).sum().item() - 201.5) < 20
    assert abs((centre.sum(0) * places).sum().item() - 121.5) < 20


def test_response_norm_is_torchs() -> None:
    x = 30 * torch.randn(2, 7, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(local_response_norm(x), nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)(x))


@pytest.mark.parametrize("size", [3, 4, 63, 64])
def test_bilinear_kernels_are_the_released_ones(size: int) -> None:
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    expected = [
        [(1 - abs(i - centre) / factor) * (1 - abs(j - centre) / factor) for j in range(size)] for i in range(size)
    ]
    torch.testing.assert_close(bilinear_kernel(size), torch.tensor(expected))


def test_bilinear_growth_is_interpolation_away_from_borders() -> None:
    x = torch.randn(1, 2, 6, 7, dtype=torch.float64)
    grown = BilinearDeconv(2, stride=4)(x)[..., 2:-2, 2:-2]
    wanted = F.interpolate(x, scale_factor=4, mode="bilinear")
    torch.testing.assert_close(grown[..., 4:-4, 4:-4], wanted[..., 4:-4, 4:-4])


def test_places_of_a_known_stack() -> None:
    place = Place().conv(3, padding=1).conv(2, stride=2).conv(3, dilation=2)
    assert (place.stride, float(place.offset), place.field) == (2, 0.5 + 4, 12)
    with pytest.raises(UsageError) as apart:
        place.crop_onto(Place())
    assert str(apart.value) == "maps of stride 2 and 1, -9/4 positions apart, have no common grid"
    with pytest.raises(UsageError) as inside:
        Place(offset=Place().offset + 3).crop_onto(Place())
    assert str(inside.value) == "the map begins 3 positions inside the other; more padding is needed"


def error_of(kind: type[Exception], **options: Any) -> str:
    with pytest.raises(kind) as error:
        create_model(options.pop("name", "fcn8s"), num_classes=3, form="paper", width=0.03, **options)
    return str(error.value)


def test_errors() -> None:
    assert error_of(UnknownNameError, backbone="vgg19") == (
        "no trunk of the paper's FCN named 'vgg19'. Did you mean 'vgg16'? Known: alexnet, googlenet, vgg16"
    )
    assert error_of(UsageError, upsampling="bilinear") == "upsampling is 'fixed', 'learned' or 'all', got 'bilinear'"
    assert error_of(UsageError, skips=[32]) == "vgg16 has pools of stride 16, 8, 4, 2 to skip from, got 32"
    assert error_of(UsageError, skips=[16, 4], at_once=True) == (
        "at_once scales the pools of stride 16 and 8, got a skip of stride 4"
    )
    assert error_of(UsageError, padding=50) == "padding must be at least 69 on this trunk, got 50"
    assert error_of(UsageError, name="fcn32s", padding=80) == "padding must be at least 81 on this trunk, got 80"
    with pytest.raises(UsageError) as width:
        create_model("fcn32s", num_classes=3, form="paper", width=0.0)
    assert str(width.value) == "width must be above 0, got 0.0"
    with pytest.raises(UsageError) as deconv:
        BilinearDeconv(0, stride=2)
    assert str(deconv.value) == "channels, stride and kernel_size must be at least 1, got 0, 2 and 4"


def test_another_padding_moves_the_crop() -> None:
    assert meta("fcn32s", padding=90).offsets == (9,)
    model = small("fcn32s", padding=81)
    assert model.offsets == (0,)
    with torch.no_grad():
        assert model(torch.randn(1, 3, 33, 40, dtype=torch.float64)).logits.shape == (1, 3, 33, 40)
