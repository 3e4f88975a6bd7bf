# SPDX-License-Identifier: Apache-2.0
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from denseg.backbones import create_backbone
from denseg.errors import UnsupportedError, UsageError


@pytest.mark.parametrize(
    ("name", "parameters"), [("xception41", 24_920_560), ("xception65", 37_867_312), ("xception71", 40_289_736)]
)
def test_parameters_and_names_are_the_released_networks(name, parameters):
    with torch.device("meta"):
        backbone = create_backbone(name)
        theirs = timm.create_model(name, features_only=True)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters
    assert backbone.network.state_dict().keys() == theirs.state_dict().keys()
    assert [tuple(spec) for spec in backbone.specs] == [(128, 2), (256, 4), (728, 8), (1024, 16), (2048, 32)]
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 3e-4)}


def test_levels_lie_before_the_relu_and_the_rest_is_timms():
    ours = create_backbone("xception41").eval()
    theirs = timm.create_model("xception41", features_only=True).eval()
    theirs.load_state_dict(ours.network.state_dict())
    x = torch.randn(1, 3, 33, 65)
    with torch.no_grad():
        levels, features = ours(x), theirs(x)
    for level, feature in zip(levels[:4], features[:4], strict=True):
        assert level.min() < 0
        torch.testing.assert_close(F.relu(level), feature)
    torch.testing.assert_close(levels[4], features[4])


def test_the_papers_figure_has_a_relu_after_every_depthwise_convolution():
    released, paper = (create_backbone("xception41", activations=kind).eval() for kind in ("released", "paper"))
    counts = [
        sum(isinstance(module.act_dw, nn.ReLU) for module in backbone.modules() if hasattr(module, "act_dw"))
        for backbone in (released, paper)
    ]
    assert counts == [3, 3 * 13]  # exit_flow/block2 alone; all of 3 + 8 + 2 blocks
    assert released.state_dict().keys() == paper.state_dict().keys()
    with pytest.raises(UsageError) as value:
        create_backbone("xception41", activations="figure")
    assert str(value.value) == "activations is 'released' or 'paper', got 'figure'"
    with pytest.raises(UnsupportedError) as other:
        create_backbone("resnet18", activations="paper")
    assert str(other.value) == "activations are Xception 41's, 65's and 71's; backbone 'resnet18' has its own"
