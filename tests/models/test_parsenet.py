# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.nn.functional as F

from denseg.errors import UsageError
from denseg.models import create_model


def test_parameters_are_deeplab_v1s_and_a_wider_classifier():
    with torch.device("meta"):
        model = create_model("parsenet", num_classes=21)
        baseline = create_model("deeplab_v1", num_classes=21)
    counts = [sum(p.numel() for p in network.parameters()) for network in (model, baseline)]
    assert counts[0] - counts[1] == 21 * 1024 + 2 * 1024  # weights of the global half, two scales


def test_features_are_the_paper_in_words():
    """Each position at length 10, beside the map's mean at length 10; every position sees the same mean."""
    model = create_model("parsenet", num_classes=3, backbone="test_resnet", channels=12).eval()
    x = torch.randn(2, 3, 33, 40)
    with torch.no_grad():
        out = model(x)
        fc7 = model.head(model.backbone(x)[-1])
    local, whole = out.features[:, :12], out.features[:, 12:]
    torch.testing.assert_close(local, 10 * F.normalize(fc7, dim=1))
    torch.testing.assert_close(whole, 10 * F.normalize(fc7.mean(dim=(2, 3), keepdim=True), dim=1).expand_as(whole))


def test_several_levels_each_with_its_scale():
    model = create_model(
        "parsenet", num_classes=3, backbone="test_resnet", channels=12, levels=4, context="all", output_stride=16
    ).eval()
    widths = [12, *(spec.channels for spec in model.backbone.specs[-2:0:-1])]
    assert model.classifier.in_channels == 2 * sum(widths)
    assert model.geometry.score_stride == 4
    x = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        out = model(x)
    assert out.heatmap.shape == (1, 3, 8, 12)
    level = model.backbone(x)[1]
    start = 2 * sum(widths[:-1])
    torch.testing.assert_close(out.features[:, start : start + widths[-1]], 10 * F.normalize(level, dim=1))
    bare = create_model("parsenet", num_classes=3, backbone="test_resnet", channels=12, levels=2, context="none")
    assert bare.classifier.in_channels == sum(widths[:2])


def test_options_are_checked():
    for options, message in (
        ({"levels": 6}, "levels must be 1 to 5 on backbone 'test_resnet', got 6"),
        ({"context": "first"}, "context is 'last', 'all' or 'none', got 'first'"),
    ):
        with pytest.raises(UsageError) as error:
            create_model("parsenet", num_classes=2, backbone="test_resnet", **options)
        assert str(error.value) == message
