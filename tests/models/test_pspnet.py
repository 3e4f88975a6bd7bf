# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from denseg.errors import UsageError
from denseg.models import create_model


def test_the_released_network():
    """Section 3.2: four grids of C / N channels; both dilated stages at one rate; ADE20K's crop gives maps of 60."""
    with torch.device("meta"):
        model = create_model("pspnet", num_classes=150, backbone="resnet50", stem="deep")
    assert model.pyramid.bins == (1, 2, 3, 6)
    assert [branch.conv.out_channels for branch in model.pyramid.branches] == [512] * 4
    assert model.fusion.conv.in_channels == 4096
    assert model.auxiliary.block.conv.in_channels == 1024
    network = model.backbone.network
    assert [unit.conv2.dilation[0] for unit in network.layer3] == [2] * 6
    assert [unit.conv2.dilation[0] for unit in network.layer4] == [4] * 3
    assert model(torch.empty(1, 3, 473, 473, device="meta")).heatmap.shape == (1, 150, 60, 60)


@pytest.mark.parametrize("bins", [(1,), (2, 5), (1, 2, 3, 4, 8)])
def test_any_grids_each_of_c_over_n_channels(bins):
    model = create_model("pspnet", num_classes=3, backbone="test_resnet", bins=bins).eval()
    channels = model.backbone.specs[-1].channels
    assert {branch.conv.out_channels for branch in model.pyramid.branches} == {channels // len(bins)}
    with torch.no_grad():
        assert model(torch.randn(1, 3, 40, 33)).logits.shape == (1, 3, 40, 33)


def test_equals_segmentation_models_pytorch_with_its_weights():
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    theirs = smp.PSPNet("resnet18", encoder_weights=None, classes=5).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    ours = create_model("pspnet", num_classes=5, backbone="resnet18", layout="smp", depth=3).eval()
    cut = {key: value for key, value in theirs.encoder.state_dict().items() if not key.startswith(("layer3", "layer4"))}
    ours.backbone.network.load_state_dict(cut)
    for block, source in [
        *zip(ours.pyramid.branches, theirs.decoder.psp.blocks, strict=True),
        (ours.fusion, theirs.decoder.conv),
    ]:
        for kind in (nn.Conv2d, nn.BatchNorm2d):
            mine, others = ([m for m in part.modules() if isinstance(m, kind)] for part in (block, source))
            for module, other in zip(mine, others, strict=True):
                module.load_state_dict(other.state_dict())
    ours.classifier.load_state_dict(theirs.segmentation_head[0].state_dict())
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(x).logits, theirs(x), rtol=1e-4, atol=1e-4)


def test_unknown_layouts_are_refused():
    with pytest.raises(UsageError) as error:
        create_model("pspnet", num_classes=2, backbone="test_resnet", layout="caffe")
    assert str(error.value) == "layout is 'paper' or 'smp', got 'caffe'"
