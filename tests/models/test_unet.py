# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from denseg.errors import ShapeError, UnsupportedError, UsageError
from denseg.models import create_model
from denseg.types import Geometry


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"in_channels": 1, "num_classes": 2}, 31_030_658),
        ({"in_channels": 3, "num_classes": 2}, 31_031_810),
        ({"in_channels": 3, "num_classes": 21}, 31_033_045),
        ({"in_channels": 1, "num_classes": 2, "released": True}, 31_100_354),
    ],
)
def test_the_papers_form_has_its_parameters(options, parameters):
    assert count(create_model("unet", form="paper", **options)) == parameters


def test_the_papers_form_maps_572_to_388():
    model = create_model("unet", num_classes=2, in_channels=1, form="paper", width=1 / 16).eval()
    assert model.geometry == Geometry(margin=92, total_stride=16, size_step=16, size_offset=12, min_size=188)
    with torch.no_grad():
        for size, out in ((188, 4), (204, 20), (572, 388)):
            assert model(torch.randn(1, 1, size, 188)).logits.shape == (1, 2, out, 4)
    assert sum(isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) for module in model.modules()) == 23


def test_the_papers_form_equals_its_layers_written_out():
    model = create_model("unet", num_classes=2, in_channels=1, form="paper", width=1 / 16).eval()
    weights = dict(model.named_parameters())
    x = torch.randn(1, 1, 220, 188)

    def convs(x, name):
        for index in (0, 2):
            x = F.relu(F.conv2d(x, weights[f"{name}.{index}.weight"], weights[f"{name}.{index}.bias"]))
        return x

    with torch.no_grad():
        out = model(x).logits
        skips = []
        for level in range(5):
            x = convs(x if level == 0 else F.max_pool2d(x, 2), f"contracting.{level}")
            skips.append(x)
        for level in range(4):
            x = F.conv_transpose2d(x, weights[f"up.{level}.weight"], weights[f"up.{level}.bias"], stride=2)
            skip = skips[3 - level]
            top, left = (skip.shape[2] - x.shape[2]) // 2, (skip.shape[3] - x.shape[3]) // 2
            skip = skip[:, :, top : top + x.shape[2], left : left + x.shape[3]]
            x = convs(torch.cat([x, skip], 1), f"expanding.{level}")
        x = F.conv2d(x, weights["classifier.weight"], weights["classifier.bias"])
    torch.testing.assert_close(out, x)


def test_the_papers_tiles_equal_the_whole_where_the_step_is_a_multiple_of_16():
    model = create_model("unet", num_classes=2, in_channels=1, form="paper", width=1 / 16).double().eval()
    x = torch.randn(1, 1, 252, 252, dtype=torch.float64)  # 68 out; tiles of 220 give 36
    with torch.no_grad():
        whole = model(x).logits
        for row in (0, 16, 32):
            for column in (0, 32):
                tile = model(x[..., row : row + 220, column : column + 220]).logits
                torch.testing.assert_close(tile, whole[..., row : row + 36, column : column + 36])


def test_the_papers_form_is_initialised_as_he_et_al():
    model = create_model("unet", num_classes=2, in_channels=1, form="paper", width=0.5)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            assert module.bias.abs().max() == 0
            if module.weight.numel() > 10_000:
                taps = module.weight[0].numel()
                assert math.isclose(module.weight.std().item(), math.sqrt(2 / taps), rel_tol=0.05)


def test_dropout_ends_the_contracting_path_in_training():
    model = create_model("unet", num_classes=2, in_channels=1, form="paper", width=1 / 16)
    x = torch.randn(1, 1, 188, 188)
    with torch.no_grad():
        assert not torch.equal(model(x).logits, model(x).logits)
        model.dropout = 0.0
        assert torch.equal(model(x).logits, model(x).logits)


def test_sizes_that_a_pool_would_round_are_refused():
    model = create_model("unet", num_classes=2, in_channels=1, form="paper", width=1 / 16)
    with pytest.raises(ShapeError) as error:
        model(torch.zeros(1, 1, 512, 572))
    assert str(error.value) == (
        "the paper's U-Net takes heights and widths 188, 204, 220, … (16 k + 12), got 512x572; predict by tiles, or "
        "use form='modern', which takes any size"
    )


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("height", "width"), [(32, 64), (33, 31), (1, 50), (192, 160)])
def test_the_modern_decoder_is_nearest_concatenate_convolve(height, width, memory_format):
    model = create_model("unet", num_classes=3, backbone="test_resnet").double().eval()
    model = model.to(memory_format=memory_format)
    assert [block.refine.conv.out_channels for block in model.decoder.blocks] == [256, 128, 64, 32, 16]
    images = torch.randn(1, 3, height, width, dtype=torch.float64).contiguous(memory_format=memory_format)
    with torch.no_grad():
        *skips, x = model.backbone(images)
        for block in model.decoder.blocks:
            skip = skips.pop() if skips else None
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            size = images.shape[-2:] if skip is None else skip.shape[-2:]
            x = x[..., : size[0], : size[1]]
            x = F.conv2d(x if skip is None else torch.cat([x, skip], 1), block.grow.conv.weight, padding=1)
            x = block.refine(F.relu(block.grow.norm(x)))
        torch.testing.assert_close(model(images).logits, model.classifier(x))


def test_any_subset_of_skips():
    model = create_model("unet", num_classes=3, backbone="test_resnet", skips=[8, 2])
    assert model.decoder.levels == [None, 2, None, 0, None]
    assert create_model("unet", num_classes=3, backbone="test_resnet", skips=[]).decoder.levels == [None] * 5
    assert create_model("unet", num_classes=3, width=0.125, skips=[4]).decoder.levels == [None, 2, None, None]
    with torch.no_grad():
        assert model.eval()(torch.randn(1, 3, 33, 45)).logits.shape == (1, 3, 33, 45)


def test_levels_that_a_backbone_lacks_grow_without_a_skip():
    model = create_model("unet", num_classes=3, backbone="test_convnext")
    assert model.decoder.levels == [2, 1, 0, None, None]
    assert create_model("unet", num_classes=3, backbone="test_resnet", output_stride=8).decoder.levels == [1, 0, None]


def test_width_scales_every_level():
    full, half = (create_model("unet", num_classes=2, width=width) for width in (1.0, 0.5))
    assert [spec.channels for spec in full.backbone.specs] == [64, 128, 256, 512, 1024]
    assert [spec.channels for spec in half.backbone.specs] == [32, 64, 128, 256, 512]
    assert half.classifier.in_channels == 32


def test_heatmap_is_the_logits_and_features_their_input():
    model = create_model("unet", num_classes=3, width=0.125).eval()
    with torch.no_grad():
        out = model(torch.randn(1, 3, 20, 24))
        assert out.heatmap is out.logits
        torch.testing.assert_close(model.classifier(out.features), out.logits)


def test_errors():
    with pytest.raises(UsageError) as width:
        create_model("unet", num_classes=2, backbone="test_resnet", width=0.5)
    assert str(width.value) == "width scales the U-Net without backbone; with one, give decoder_channels"
    with pytest.raises(UsageError) as negative:
        create_model("unet", num_classes=2, width=-1.0)
    assert str(negative.value) == "width must be above 0, got -1.0"
    with pytest.raises(UnsupportedError) as skips:
        create_model("unet", num_classes=2, backbone="test_convnext", skips=[8, 2])
    assert str(skips.value) == "a U-Net on this backbone can skip from strides 4, 8, 16, got [8, 2]"
    with pytest.raises(UsageError) as channels:
        create_model("unet", num_classes=2, decoder_channels=(64, 32))
    assert str(channels.value) == "decoder_channels needs 4 numbers here, one per step up, got [64, 32]"
