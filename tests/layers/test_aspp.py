# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torchvision.models.segmentation import deeplabv3

from denseg.errors import ShapeError, UsageError
from denseg.layers import ASPP


def test_equals_torchvision_with_its_weights():
    torch.manual_seed(0)
    theirs = deeplabv3.ASPP(16, [2, 3, 5], 8)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    ours = ASPP(16, dilations=(2, 3, 5), out_channels=8)
    theirs_in_our_order = [theirs.convs[4], *theirs.convs[:4], theirs.project]
    for block, source in zip(
        [ours.pooling, ours.pointwise, *ours.atrous, ours.projection], theirs_in_our_order, strict=True
    ):
        conv = next(m for m in source if isinstance(m, nn.Conv2d))
        norm = next(m for m in source if isinstance(m, nn.BatchNorm2d))
        block.conv.weight.data.copy_(conv.weight)
        block.norm.load_state_dict(norm.state_dict())
    pooled_last = ours.projection.conv.weight.data
    ours.projection.conv.weight.data = torch.cat([pooled_last[:, 32:], pooled_last[:, :32]], dim=1)
    x = torch.randn(2, 16, 11, 14)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("conv", ["full", "separable", "grouped"])
def test_a_constant_map_stays_constant_inside(conv):
    layer = ASPP(4, dilations=(1, 2), out_channels=4, conv=conv).eval()
    x = torch.randn(1, 4, 1, 1).expand(1, 4, 9, 9)
    inner = layer(x)[..., 2:-2, 2:-2]
    torch.testing.assert_close(inner, inner[..., :1, :1].expand_as(inner))


def test_flipping_kernels_and_map_flips_the_output():
    layer = ASPP(4, dilations=(1, 3), out_channels=3).eval()
    x = torch.randn(1, 4, 8, 7)
    before = layer(x)
    for branch in layer.atrous:
        branch.conv.weight.data = branch.conv.weight.data.flip(3)
    torch.testing.assert_close(layer(x.flip(3)).flip(3), before)


def test_without_branches_it_is_pooling_and_one_convolution():
    layer = ASPP(6, dilations=(), out_channels=4)
    assert sorted(dict(layer.named_children())) == ["atrous", "pointwise", "pooling", "projection"]
    assert layer.projection.conv.in_channels == 8
    assert ASPP(6, dilations=(2,), out_channels=4, image_pooling=False).projection.conv.in_channels == 8


def test_dropout_acts_in_training_alone():
    layer = ASPP(4, dilations=(1,), out_channels=64, dropout=0.5)
    x = torch.randn(2, 4, 6, 6)
    assert (layer(x) == 0).float().mean() > 0.6  # half by dropout, half of the rest by ReLU
    assert torch.equal(layer.eval()(x), layer.eval()(x))


def test_gradcheck():
    layer = ASPP(2, dilations=(1, 2), out_channels=2, conv="separable").double().eval()
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(layer, (x,))


def test_errors():
    with pytest.raises(UsageError) as dilations:
        ASPP(8, dilations=(6, 0))
    assert str(dilations.value) == "ASPP dilations must be at least 1, got [6, 0]"
    with pytest.raises(UsageError) as dropout:
        ASPP(8, dropout=1.0)
    assert str(dropout.value) == "dropout must be at least 0 and below 1, got 1.0"
    with pytest.raises(ShapeError) as shape:
        ASPP(8)(torch.zeros(8, 4, 4))
    assert str(shape.value) == "ASPP takes features of shape (B, C, h, w), got (8, 4, 4)"


def test_the_mean_of_windows_of_a_size():
    """As large as the map, the window is the whole map; smaller, its means grow from corner to corner."""
    torch.manual_seed(0)
    whole = ASPP(4, dilations=(1,), out_channels=8).eval()
    x = torch.randn(1, 4, 6, 9)
    for size in (9, 40):
        wide = ASPP(4, dilations=(1,), out_channels=8, image_pooling_size=size).eval()
        wide.load_state_dict(whole.state_dict())
        torch.testing.assert_close(wide(x), whole(x))
    windows = ASPP(4, dilations=(1,), out_channels=8, image_pooling_size=3).eval()
    windows.load_state_dict(whole.state_dict())
    seen = []
    windows.projection.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    windows(x)
    corner = windows.pooling(x[..., :3, :3].mean(dim=(2, 3), keepdim=True))
    torch.testing.assert_close(seen[0][:, :8, :1, :1], corner)
    corner = windows.pooling(x[..., -3:, -3:].mean(dim=(2, 3), keepdim=True))
    torch.testing.assert_close(seen[0][:, :8, -1:, -1:], corner)
    with pytest.raises(UsageError) as error:
        ASPP(4, image_pooling_size=0)
    assert str(error.value) == "image_pooling_size must be at least 1, got 0"
