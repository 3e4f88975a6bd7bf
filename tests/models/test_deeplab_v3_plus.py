# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from denseg.backbones import create_backbone
from denseg.errors import UnsupportedError, UsageError
from denseg.models import create_model
from denseg.models.complexity import describe
from denseg.models.deeplab_v3_plus import DeepLabV3Plus


@pytest.mark.parametrize(
    ("backbone", "options", "parameters", "billions"),
    [
        ("resnet101", {"separable": False}, 59_344_309, 92.82),
        ("resnet101", {"separable": False, "decoder": False}, 58_040_661, 71.06),
        ("resnet101", {}, 45_688_261, 60.18),
        ("resnet50", {"separable": False}, 40_352_181, 72.19),
        ("xception65", {}, 41_055_413, 54.04),
        ("xception41", {}, 28_108_661, 40.01),
        ("xception71", {}, 43_477_837, 66.07),
        ("xception65", {"output_stride": 8}, 41_055_413, 176.85),
        ("xception65", {"decoder": False}, 40_892_485, 51.28),
        ("mobilenetv2_100", {"dilations": (), "decoder": False}, 2_113_557, 2.74),
    ],
)
def test_published_parameters_and_multiply_adds(backbone, options, parameters, billions):
    """At 513x513 and 21 classes; convolutions alone, counted on shapes without computing."""
    with torch.device("meta"):
        model = create_model("deeplab_v3_plus", num_classes=21, backbone=backbone, **options).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    total = 0

    def add(module, inputs, output):
        nonlocal total
        total += output[0].numel() * module.weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    model(torch.empty(1, 3, 513, 513, device="meta"))
    assert total / 1e9 == pytest.approx(billions, abs=0.006)


def test_rates_follow_the_output_stride():
    for output_stride, rates in ((8, (12, 24, 36)), (16, (6, 12, 18)), (32, (3, 6, 9))):
        model = create_model(
            "deeplab_v3_plus", num_classes=2, backbone="test_resnet", output_stride=output_stride, channels=8
        )
        assert tuple(branch.depthwise.conv.dilation[0] for branch in model.aspp.atrous) == rates
        assert model.spec.arguments["output_stride"] == output_stride


def test_output():
    model = create_model("deeplab_v3_plus", num_classes=5, backbone="test_resnet").eval()
    assert (model.geometry.score_stride, model.geometry.total_stride) == (4, 16)
    assert model.decoder.reduction.conv.out_channels == 48
    with torch.no_grad():
        out = model(torch.randn(2, 3, 65, 50))
        assert out.logits.shape == (2, 5, 65, 50)
        assert out.heatmap.shape == (2, 5, 17, 13)
        assert out.features.shape == (2, 256, 17, 13)
        torch.testing.assert_close(model.classifier(out.features), out.heatmap)
    flat = create_model("deeplab_v3_plus", num_classes=5, backbone="test_resnet", decoder=False).eval()
    with torch.no_grad():
        assert flat(torch.randn(2, 3, 65, 50)).heatmap.shape == (2, 5, 5, 4)


def test_equals_segmentation_models_pytorch_with_its_weights():
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    theirs = smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=5, decoder_channels=32).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    options = {"layout": "smp", "dilation_rule": "uniform", "channels": 32}
    ours = create_model("deeplab_v3_plus", num_classes=5, backbone="resnet18", **options).eval()
    ours.backbone.network.load_state_dict(theirs.encoder.state_dict())
    decoder = theirs.decoder
    pyramid, expansion, norm, _ = decoder.aspp
    pairs = [(ours.aspp.pointwise, pyramid.convs[0]), (ours.aspp.pooling, pyramid.convs[4])]
    pairs += [(ours.aspp.projection, pyramid.project), (ours.decoder.reduction, decoder.block1)]
    pairs += [*zip(ours.aspp.atrous, pyramid.convs[1:4], strict=True)]
    pairs += [(ours.expansion, nn.Sequential(expansion, norm)), (ours.decoder.refinement, decoder.block2)]
    for block, source in pairs:
        for kind in (nn.Conv2d, nn.BatchNorm2d):
            mine, others = ([m for m in part.modules() if isinstance(m, kind)] for part in (block, source))
            for module, other in zip(mine, others, strict=True):
                module.load_state_dict(other.state_dict())
    weight = ours.aspp.projection.conv.weight.data
    ours.aspp.projection.conv.weight.data = torch.cat([weight[:, -32:], weight[:, :-32]], dim=1)  # ours pools first
    ours.classifier.load_state_dict(theirs.segmentation_head[0].state_dict())
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(x).logits, theirs(x), rtol=1e-4, atol=1e-4)


def macs(**options):
    with torch.device("meta"):
        model = create_model("deeplab_v3_plus", num_classes=21, backbone="test_resnet", **options)
    return {row.name: row.macs for row in describe(model, (129, 129)).layers}


def test_what_the_forms_of_a_convolution_cost():
    """Section 3.1: a separable convolution costs 1 / C' + 1 / k^2 of the full one, a grouped one 1 / groups."""
    full, separable, grouped = (macs(conv=conv, groups=8, low_level_channels=64) for conv in CONVS_BY_COST)
    chosen = ("aspp.atrous", "decoder.refinement")
    names = {name.removesuffix(".conv") for name in full if name.startswith(chosen) and name.endswith(".conv")}
    assert len(names) == 5
    for name in names:
        whole = full[f"{name}.conv"]
        channels = 256
        parts = separable[f"{name}.depthwise.conv"] + separable[f"{name}.pointwise.conv"]
        assert parts / whole == pytest.approx(1 / channels + 1 / 9)
        assert whole == 8 * grouped[f"{name}.conv"]


CONVS_BY_COST = ("full", "separable", "grouped")


@pytest.mark.parametrize(
    ("options", "convs"),
    [
        ({"low_level_channels": 8}, [(264, 256, 3), (256, 256, 3)]),  # Table 1
        ({"decoder_convs": 1}, [(304, 256, 3)]),  # Table 2
        ({"decoder_convs": 3, "decoder_channels": 128}, [(304, 128, 3), (128, 128, 3), (128, 128, 3)]),
        ({"decoder_convs": 1, "decoder_kernel": 1}, [(304, 256, 1)]),
    ],
)
def test_decoders_of_the_ablations(options, convs):
    with torch.device("meta"):
        model = create_model("deeplab_v3_plus", num_classes=2, backbone="test_resnet", conv="full", **options)
    found = [
        (block.conv.in_channels, block.conv.out_channels, block.conv.kernel_size[0])
        for block in model.decoder.refinement
    ]
    assert found == convs
    assert model.classifier.in_channels == convs[-1][1]


def test_options_are_checked():
    for options, message in (
        ({"layout": "tf"}, "layout is 'paper' or 'smp', got 'tf'"),
        ({"conv": "depthwise"}, "conv is 'full', 'separable' or 'grouped', got 'depthwise'"),
        (
            {"conv": "grouped", "groups": 7},
            "groups must divide the channels of a grouped convolution, 96 in and 256 out; got 7",
        ),
        (
            {"decoder_convs": 0},
            "the decoder takes at least 1 convolution with an odd kernel, or decoder=False; got decoder_convs=0 and "
            "decoder_kernel=3",
        ),
    ):
        with pytest.raises(UsageError) as error:
            create_model("deeplab_v3_plus", num_classes=2, backbone="test_resnet", **options)
        assert str(error.value) == message


def test_a_backbone_without_stride_4_is_refused():
    backbone = create_backbone("test_resnet")
    backbone.specs = backbone.specs[2:]
    with pytest.raises(UnsupportedError) as error:
        DeepLabV3Plus(2, backbone=backbone)
    assert str(error.value) == (
        "the decoder of deeplab_v3_plus needs a feature map of stride 4, backbone 'test_resnet' has strides 8, 16, 32; "
        "take a convolutional backbone such as resnet50, convnext_tiny or mobilenetv2_100"
    )
