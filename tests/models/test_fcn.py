# SPDX-License-Identifier: Apache-2.0
import torch
from torch import nn
from torchvision.models.segmentation import fcn_resnet50

from denseg.models import create_model


def test_equals_torchvision_with_its_weights():
    torch.manual_seed(0)
    theirs = fcn_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.1)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    names = {
        "backbone.": "backbone.network.",
        "classifier.0.": "head.block.conv.",
        "classifier.1.": "head.block.norm.",
        "classifier.4.": "classifier.",
        "aux_classifier.0.": "aux_head.block.conv.",
        "aux_classifier.1.": "aux_head.block.norm.",
        "aux_classifier.4.": "aux_classifier.",
    }
    state = {}
    for name, value in theirs.state_dict().items():
        prefix = next(prefix for prefix in names if name.startswith(prefix))
        state[names[prefix] + name.removeprefix(prefix)] = value
    ours = create_model("fcn", num_classes=21).eval()
    ours.load_state_dict(state)
    x = torch.randn(1, 3, 65, 98)
    with torch.no_grad():
        out, reference = ours(x), theirs(x)
    torch.testing.assert_close(out.logits, reference["out"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.aux_logits[0], reference["aux"], rtol=1e-4, atol=1e-4)


def test_output():
    model = create_model("fcn", num_classes=5, backbone="test_resnet").eval()
    assert (model.geometry.score_stride, model.geometry.total_stride) == (8, 8)
    with torch.no_grad():
        out = model(torch.randn(2, 3, 33, 50))
        assert out.heatmap.shape == (2, 5, 5, 7)
        assert out.features.shape == (2, 24, 5, 7)
        assert len(out.aux_logits) == 1
        torch.testing.assert_close(model.classifier(out.features), out.heatmap)


def test_options():
    model = create_model("fcn", num_classes=5, backbone="test_resnet", auxiliary=False, channels=10, output_stride=32)
    assert model.classifier.in_channels == 10
    with torch.no_grad():
        out = model(torch.randn(2, 3, 64, 64))
    assert out.aux_logits == ()
    assert out.heatmap.shape == (2, 5, 2, 2)
