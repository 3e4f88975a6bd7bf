# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import timm
import torch
from torch import nn

from denseg.backbones import create_backbone
from denseg.errors import UnsupportedError, UsageError

# One network per way in which a resolution falls: strided convolutions, pools (max, average, blurred, with and without
# padding, rounding up or down), patches, TensorFlow's padding, concatenation, function calls, aggregation.
KINDS = [
    "alexnet",
    "densenet121",
    "dla46_c",
    "googlenet",
    "legacy_xception",
    "mobilenetv2_050",
    "regnety_002",
    "resnet10t",
    "resnetblur18",
    "test_convnext",
    "test_mambaout",
    "test_resnet",
    "tf_mobilenetv3_small_minimal_100",
    "vgg11_bn",
    "xception41",
]


def randomize(network):
    """Statistics and scales that differ from channel to channel; no scale near zero, no pooled gates."""
    generator = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            draw = torch.rand(value.shape, generator=generator)
            value.copy_(draw * 0.2 - 0.1 if name.endswith(("bias", "mean")) else 0.8 + 0.4 * draw)
    for module in network.modules():
        for gate in ("se", "attn"):
            if isinstance(getattr(module, gate, None), nn.Module) and "Split" not in type(module).__name__:
                setattr(module, gate, nn.Identity())


@pytest.mark.parametrize("name", KINDS)
def test_dilated_it_computes_the_strided_maps_and_those_between(name):
    """A trous: at every level, output stride and size, back and forth."""
    torch.manual_seed(0)
    strided = create_backbone(name).eval()
    randomize(strided)
    dilated = copy.deepcopy(strided)
    images = [torch.randn(1, 3, *size) for size in ((65, 33), (34, 64))]
    with torch.no_grad():
        expected = [strided(x) for x in images]
        assert expected[0][-1].std() > 1e-6
        for output_stride in (4, 16, 8):
            if output_stride >= strided.output_stride:
                continue
            dilated.set_output_stride(output_stride)
            assert dilated.output_stride == output_stride
            for x, coarse_levels in zip(images, expected, strict=True):
                for coarse, fine, spec in zip(coarse_levels, dilated(x), strided.specs, strict=True):
                    step = max(1, spec.stride // output_stride)
                    scale = float(coarse.abs().max())
                    torch.testing.assert_close(fine[..., ::step, ::step], coarse, rtol=0, atol=1e-5 * scale)
        dilated.set_output_stride(None)
        assert dilated.specs == strided.specs
        for ours, theirs in zip(dilated(images[0]), expected[0], strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("name", "output_stride"), [("resnet18", 8), ("mobilenetv2_050", 16), ("xception41", 8)])
def test_where_timm_dilates_the_exact_rule_is_timms(name, output_stride):
    theirs = timm.create_model(name, features_only=True, output_stride=output_stride).eval()
    ours = create_backbone(name, output_stride=output_stride).eval()
    ours.network.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 65, 33)
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[-1], theirs(x)[-1], rtol=1e-4, atol=1e-5)


def test_the_uniform_rule_gives_a_stage_one_rate():
    """As segmentation_models_pytorch does by hand: every convolution of a stage, its first one too; pools stay."""
    ours = create_backbone("resnet26d", output_stride=8, dilation_rule="uniform").eval()
    theirs = timm.create_model("resnet26d", features_only=True).eval()
    ours.network.load_state_dict(theirs.state_dict())
    for stage, rate in ((theirs.layer3, 2), (theirs.layer4, 4)):
        for module in stage.modules():
            if isinstance(module, nn.Conv2d):
                module.stride, module.dilation = (1, 1), (rate, rate)
                module.padding = tuple(rate * (k // 2) for k in module.kernel_size)
            elif isinstance(module, nn.AvgPool2d):
                module.stride = (1, 1)
    for stage in (theirs.layer3, theirs.layer4):  # a 2x2 mean at stride 1 keeps the size with padding after the end
        stage[0].downsample[0] = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), Mean2x2())
    x = torch.randn(1, 3, 65, 48)
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[-1], theirs(x)[-1], rtol=1e-4, atol=1e-5)
        exact = create_backbone("resnet26d", output_stride=8).eval()
        exact.load_state_dict(ours.state_dict())
        assert (exact(x)[-1] - ours(x)[-1]).abs().max() > 1e-3, "the rules are two networks"


class Mean2x2(nn.Module):
    """Mean over those of four positions that lie in the map."""

    def forward(self, x):
        here = torch.nn.functional.pad(torch.ones_like(x[:, :, :-1, :-1]), (0, 1, 0, 1))
        return nn.functional.avg_pool2d(x, 2, 1) / nn.functional.avg_pool2d(here, 2, 1)


def rates(backbone, stage):
    """Dilations of the stage's 3x3 convolutions in their order."""
    convs = [m for name, m in backbone.network.named_modules() if name.startswith(stage) and isinstance(m, nn.Conv2d)]
    return [conv.dilation[0] for conv in convs if conv.kernel_size == (3, 3)]


@pytest.mark.parametrize(
    ("output_stride", "rule", "expected"),
    [
        (16, "uniform", [2, 4, 8]),  # DeepLab v3, Section 3.2: rate times multi-grid
        (8, "uniform", [4, 8, 16]),
        (16, "exact", [1, 4, 8]),
    ],
)
def test_multi_grid_on_resnet(output_stride, rule, expected):
    backbone = create_backbone("resnet50", output_stride=output_stride, dilation_rule=rule, multi_grid=(1, 2, 4))
    assert rates(backbone, "layer4") == expected
    backbone.set_output_stride(32, multi_grid=(1, 2, 4))
    assert rates(backbone, "layer4") == [1, 2, 4]
    backbone.set_output_stride(32)
    assert rates(backbone, "layer4") == [1, 1, 1]


def test_multi_grid_on_xception():
    """TensorFlow's ``unit_rate_list`` on the three separable convolutions of ``exit_flow/block2``."""
    backbone = create_backbone("xception41", output_stride=8, multi_grid=(1, 2, 4))
    assert rates(backbone, "blocks_12") == [4, 8, 16]
    assert rates(backbone, "blocks_11") == [2, 2, 2]


def test_deeplab_v1s_rates_on_vgg():
    """Pools 4 and 5 keep their 3x3 windows and lose their stride; conv5 has rate 2."""
    backbone = create_backbone("vgg11", output_stride=8, dilation_rule="uniform", pool_size=3)
    assert rates(backbone, "features") == [1, 1, 1, 1, 1, 1, 2, 2]
    pools = [module for module in backbone.modules() if isinstance(module, nn.MaxPool2d)]
    assert [(pool.kernel_size, pool.stride, pool.padding, pool.dilation) for pool in pools] == [
        *[(3, 2, 1, 1)] * 3,
        *[(3, (1, 1), (1, 1), (1, 1))] * 2,
    ]


def test_weights_and_their_names_stay():
    backbone = create_backbone("xception71")
    names = {name: value.shape for name, value in backbone.state_dict().items()}
    assert "network.blocks_4.shortcut.conv.weight" in names
    backbone.set_output_stride(8)
    assert {name: value.shape for name, value in backbone.state_dict().items()} == names


def test_what_cannot_be_dilated_says_what_to_use():
    with pytest.raises(UnsupportedError) as error:
        create_backbone("swin_tiny_patch4_window7_224", output_stride=8)
    assert str(error.value) == (
        "backbone 'swin_tiny_patch4_window7_224' cannot be dilated to output stride 8: its resolution does not fall in "
        "convolutions and pools alone; use its own, output_stride=32, or a convolutional backbone, for example "
        "resnet50, vgg16_bn, densenet121, mobilenetv2_100, efficientnet_b0, convnext_tiny, xception65"
    )


def test_options_out_of_range():
    backbone = create_backbone("resnet26")
    with pytest.raises(UsageError) as rule:
        backbone.set_output_stride(8, rule="uniformly")
    assert str(rule.value) == "dilation_rule is 'exact' or 'uniform', got 'uniformly'"
    with pytest.raises(UsageError) as grid:
        backbone.set_output_stride(8, multi_grid=(1, 2, 4))
    assert str(grid.value) == (
        "multi_grid needs one rate per unit of the last stage, got [1, 2, 4]; this backbone's last stage has units in "
        "groups of 2"
    )
    with pytest.raises(UsageError) as zero:
        backbone.set_output_stride(8, multi_grid=(1, 0))
    assert str(zero.value) == "multi_grid rates must be at least 1, got [1, 0]"


def test_it_exports_at_any_size():
    """Padding that depends on the size stays in the graph."""
    backbone = create_backbone("resnetblur18", output_stride=8).eval()
    rows, columns = (torch.export.Dim(side, min=2, max=64) for side in ("rows", "columns"))
    program = torch.export.export(
        backbone, (torch.randn(2, 3, 48, 64),), dynamic_shapes=({2: 8 * rows, 3: 8 * columns},)
    )
    x = torch.randn(2, 3, 72, 40)
    with torch.no_grad():
        for ours, theirs in zip(backbone(x), program.module()(x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
