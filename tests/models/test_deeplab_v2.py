# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from denseg.errors import UsageError
from denseg.models import create_model


@pytest.mark.parametrize(
    ("backbone", "parameters"),
    [
        ("resnet101", 42_500_160 + 4 * (9 * 2048 * 21 + 21)),
        ("vgg16", 14_714_688 + 4 * ((9 * 512 * 1024 + 1024) + (1024**2 + 1024) + 21 * 1025)),
    ],
)
def test_parameters_are_the_released_networks(backbone, parameters):
    with torch.device("meta"):
        model = create_model("deeplab_v2", num_classes=21, backbone=backbone)
    assert sum(p.numel() for p in model.parameters()) == parameters
    dilated = {m.dilation[0] for m in model.modules() if isinstance(m, nn.Conv2d) and m.out_channels in {21, 1024}}
    assert {6, 12, 18, 24} <= dilated


def test_scores_are_the_sum_of_the_branches():
    model = create_model("deeplab_v2", num_classes=3, backbone="test_resnet", channels=8).eval()
    x = torch.randn(1, 3, 33, 40)
    with torch.no_grad():
        deepest = model.backbone(x)[-1]
        parts = [c(branch(deepest)) for c, branch in zip(model.classifiers, model.branches, strict=True)]
        torch.testing.assert_close(model(x).heatmap, sum(parts))
        assert model(x).features.shape == (1, 8, 5, 5)


def test_three_scales_are_fused_by_their_maximum():
    torch.manual_seed(0)
    model = create_model("deeplab_v2", num_classes=3, backbone="test_resnet", scales=[1, 0.75, 0.5]).eval()
    single = create_model("deeplab_v2", num_classes=3, backbone="test_resnet").eval()
    single.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        out = model(x)
        maps = []
        for size in ((64, 48), (48, 36), (32, 24)):
            small = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            scores = single(small if size != (64, 48) else x).heatmap
            maps.append(F.interpolate(scores, size=(8, 6), mode="bilinear", align_corners=False))
        torch.testing.assert_close(out.heatmap, torch.stack(maps).amax(dim=0))
        for aux, scores in zip(out.aux_logits, maps, strict=True):
            whole = F.interpolate(scores, size=(64, 48), mode="bilinear", align_corners=False)
            torch.testing.assert_close(aux, whole)


def test_options_are_checked():
    for options, message in (
        ({"dilations": []}, "dilations must be at least 1, one or more of them, got []"),
        ({"dilations": [0]}, "dilations must be at least 1, one or more of them, got [0]"),
        ({"scales": [0.5]}, "scales must begin with 1 and be above 0, for example [1, 0.75, 0.5], got [0.5]"),
    ):
        with pytest.raises(UsageError) as error:
            create_model("deeplab_v2", num_classes=2, backbone="test_resnet", **options)
        assert str(error.value) == message
