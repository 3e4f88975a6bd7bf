# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn
from torchvision.models.segmentation import deeplabv3_resnet50

from denseg.errors import UsageError
from denseg.models import create_model


def randomize(network):
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.1)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)


def copy_block(block, source):
    """From a sequence of convolution, norm and more to a block of ours."""
    block.conv.load_state_dict(next(m for m in source.modules() if isinstance(m, nn.Conv2d)).state_dict())
    block.norm.load_state_dict(next(m for m in source.modules() if isinstance(m, nn.BatchNorm2d)).state_dict())


def copy_aspp(aspp, source):
    """Their image pooling comes last, ours first, as TensorFlow's."""
    for block, part in zip([aspp.pointwise, *aspp.atrous], source.convs[:-1], strict=True):
        copy_block(block, part)
    copy_block(aspp.pooling, source.convs[-1])
    copy_block(aspp.projection, source.project)
    width = aspp.projection.conv.out_channels
    weight = aspp.projection.conv.weight.data
    aspp.projection.conv.weight.data = torch.cat([weight[:, -width:], weight[:, :-width]], dim=1)


def test_equals_torchvision_with_its_weights():
    torch.manual_seed(0)
    theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).eval()
    randomize(theirs)
    options = {"auxiliary": True, "output_stride": 8}
    ours = create_model("deeplab_v3", num_classes=21, backbone="resnet50", **options).eval()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    ours.backbone.network.load_state_dict(theirs.backbone.state_dict())
    copy_aspp(ours.aspp, theirs.classifier[0])
    copy_block(ours.refinement, nn.Sequential(theirs.classifier[1], theirs.classifier[2]))
    ours.classifier.load_state_dict(theirs.classifier[4].state_dict())
    copy_block(ours.auxiliary.block, theirs.aux_classifier)
    ours.auxiliary.classifier.load_state_dict(theirs.aux_classifier[4].state_dict())
    x = torch.randn(2, 3, 65, 98)
    with torch.no_grad():
        out, reference = ours(x), theirs(x)
    torch.testing.assert_close(out.logits, reference["out"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.aux_logits[0], reference["aux"], rtol=1e-4, atol=1e-4)


def test_equals_segmentation_models_pytorch_with_its_weights():
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    theirs = smp.DeepLabV3("resnet18", encoder_weights=None, classes=5, decoder_channels=32).eval()
    randomize(theirs)
    options = {"layout": "smp", "dilation_rule": "uniform", "output_stride": 8, "channels": 32}
    ours = create_model("deeplab_v3", num_classes=5, backbone="resnet18", **options).eval()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    ours.backbone.network.load_state_dict(theirs.encoder.state_dict())
    copy_aspp(ours.aspp, theirs.decoder.aspp)
    copy_block(ours.refinement, nn.Sequential(theirs.decoder.conv, theirs.decoder.bn))
    ours.classifier.load_state_dict(theirs.segmentation_head[0].state_dict())
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(x).logits, theirs(x), rtol=1e-4, atol=1e-4)


def test_multi_grid_and_rates():
    """Section 4: (6, 12, 18) with multi-grid (1, 2, 4) at output stride 16; all doubled at 8."""
    for output_stride, rates, grid in ((16, [6, 12, 18], [2, 4, 8]), (8, [12, 24, 36], [4, 8, 16])):
        with torch.device("meta"):
            model = create_model(
                "deeplab_v3",
                num_classes=21,
                output_stride=output_stride,
                layout="paper",
                dilation_rule="uniform",
                multi_grid=[1, 2, 4],
            )
        assert [branch.conv.dilation[0] for branch in model.aspp.atrous] == rates
        assert [unit.conv2.dilation[0] for unit in model.backbone.network.layer4] == grid
        assert model.spec.arguments["multi_grid"] == [1, 2, 4]
        assert sum(p.numel() for p in model.parameters()) == 39_048_533


def test_unknown_layouts_are_refused():
    with pytest.raises(UsageError) as error:
        create_model("deeplab_v3", num_classes=2, backbone="test_resnet", layout="tv")
    assert str(error.value) == "layout is 'paper', 'torchvision' or 'smp', got 'tv'"
