# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from denseg.errors import UsageError
from denseg.layers import ConvBlock, fold_batch_norms
from denseg.models import create_model


def randomise(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return model


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unet", {"width": 0.125}),
        ("unet", {"backbone": "test_efficientnet"}),
        ("deeplab_v3_plus", {"backbone": "test_resnet", "output_stride": 8}),
        ("fcn", {"backbone": "test_resnet"}),
    ],
)
def test_scores_stay_and_norms_go(name, options, memory_format):
    torch.manual_seed(0)
    model = randomise(create_model(name, num_classes=3, **options)).double().eval().to(memory_format=memory_format)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    folded = fold_batch_norms(model, torch.randn(1, 3, 32, 32, dtype=torch.float64))
    assert folded is not model
    assert not any(type(m).forward is nn.BatchNorm2d.forward for m in folded.modules() if isinstance(m, nn.BatchNorm2d))
    x = torch.randn(2, 3, 96, 128, dtype=torch.float64).contiguous(memory_format=memory_format)
    with torch.no_grad():
        for ours, theirs in zip(folded(x), model(x), strict=True):
            if isinstance(ours, torch.Tensor):
                torch.testing.assert_close(ours, theirs)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_norms_do_nothing_any_more():
    block = randomise(ConvBlock(3, 4)).eval()
    folded = fold_batch_norms(block, torch.randn(1, 3, 5, 5))
    x = torch.randn(1, 4, 5, 5)
    assert folded.norm(x) is x
    torch.testing.assert_close(folded(torch.ones(1, 3, 5, 5)), block(torch.ones(1, 3, 5, 5)))


class Branching(nn.Module):
    """The convolution's output is used before its norm, too: nothing may be folded."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        return y + self.norm(y)


def test_what_would_change_is_left():
    model = randomise(Branching()).eval()
    assert fold_batch_norms(model, torch.randn(1, 3, 4, 4)) is model


def test_a_convolution_called_twice_is_left():
    conv = nn.Conv2d(3, 3, 1)
    model = randomise(nn.Sequential(conv, nn.BatchNorm2d(3), conv, nn.BatchNorm2d(3))).eval()
    assert fold_batch_norms(model, torch.randn(1, 3, 4, 4)) is model


def test_training_mode_is_refused():
    with pytest.raises(UsageError) as error:
        fold_batch_norms(ConvBlock(3, 4), torch.zeros(1, 3, 4, 4))
    assert str(error.value) == "batch norms are folded for inference; call model.eval() first"
