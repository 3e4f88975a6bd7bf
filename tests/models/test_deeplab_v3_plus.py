# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.segmentation import deeplabv3_resnet50

from denseg.backbones import create_backbone
from denseg.errors import UnsupportedError
from denseg.models import create_model
from denseg.models.deeplab_v3_plus import DeepLabV3Plus


@pytest.mark.parametrize(
    ("backbone", "options", "parameters", "billions"),
    [
        ("resnet101", {"separable": False}, 59_344_309, 92.82),
        ("resnet101", {"separable": False, "decoder": False}, 58_040_661, 71.06),
        ("resnet101", {}, 45_688_261, 60.18),
        ("resnet50", {"separable": False}, 40_352_181, 72.19),
        ("xception65", {}, 41_055_413, 54.04),
        ("xception65", {"output_stride": 8}, 41_055_413, 176.85),
        ("xception65", {"decoder": False}, 40_892_485, 51.28),
        ("mobilenetv2_100", {"dilations": (), "decoder": False}, 2_113_557, 2.74),
    ],
)
def test_published_parameters_and_multiply_adds(backbone, options, parameters, billions):
    """At 513x513 and 21 classes; convolutions alone, counted on shapes without computing."""
    model = create_model("deeplab_v3_plus", num_classes=21, backbone=backbone, **options).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    total = 0

    def add(module, inputs, output):
        nonlocal total
        total += output[0].numel() * module.weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    model.to("meta")(torch.empty(1, 3, 513, 513, device="meta"))
    assert total / 1e9 == pytest.approx(billions, abs=0.006)


def test_without_decoder_it_is_torchvisions_deeplab_v3_but_for_one_convolution():
    """Their head puts a 3x3 convolution between pyramid and classifier, which is borrowed here."""
    torch.manual_seed(0)
    theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=4).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.8, 1.2)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
    ours = create_model("deeplab_v3_plus", num_classes=4, output_stride=8, separable=False, decoder=False).eval()
    ours.backbone.network.load_state_dict(theirs.backbone.state_dict())
    aspp = theirs.classifier[0]
    blocks = [ours.aspp.pooling, ours.aspp.pointwise, *ours.aspp.atrous, ours.aspp.projection]
    for block, source in zip(blocks, [aspp.convs[4], *aspp.convs[:4], aspp.project], strict=True):
        block.conv.load_state_dict(next(m for m in source if isinstance(m, nn.Conv2d)).state_dict())
        block.norm.load_state_dict(next(m for m in source if isinstance(m, nn.BatchNorm2d)).state_dict())
    projection = ours.aspp.projection.conv.weight.data
    ours.aspp.projection.conv.weight.data = torch.cat([projection[:, 1024:], projection[:, :1024]], dim=1)
    x = torch.randn(2, 3, 97, 72)
    with torch.no_grad():
        heatmap = nn.Sequential(*list(theirs.classifier)[1:])(ours(x).features)
        logits = F.interpolate(heatmap, size=(97, 72), mode="bilinear", align_corners=False)
        torch.testing.assert_close(logits, theirs(x)["out"], rtol=1e-4, atol=1e-4)


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


def test_a_backbone_without_stride_4_is_refused():
    backbone = create_backbone("test_resnet")
    backbone.specs = backbone.specs[2:]
    with pytest.raises(UnsupportedError) as error:
        DeepLabV3Plus(2, backbone=backbone)
    assert str(error.value) == (
        "the decoder of deeplab_v3_plus needs a feature map of stride 4, backbone 'test_resnet' has strides 8, 16, 32; "
        "take a convolutional backbone such as resnet50, convnext_tiny or mobilenetv2_100"
    )
