# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torchvision
from torch import nn

from denseg.backbones import create_backbone
from denseg.errors import CheckpointError, UnsupportedError, UsageError

CONVOLUTIONAL = "resnet50, vgg16_bn, densenet121, mobilenetv2_100, efficientnet_b0, convnext_tiny, xception65"


def test_alexnets_maps_are_torchvisions():
    """At a size at which nothing is rounded, the first convolution and pool see what torchvision's see."""
    torch.manual_seed(0)
    theirs = torchvision.models.alexnet(weights=None).eval()
    ours = create_backbone("alexnet").eval()
    ours.network.load_state_dict({k: v for k, v in theirs.state_dict().items() if k.startswith("features")})
    assert [tuple(spec) for spec in ours.specs] == [(64, 4), (192, 8), (256, 16), (256, 32)]
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        level, expected = ours(x)[0], theirs.features[:2](x)
    torch.testing.assert_close(level[..., :15, :23], expected)


def test_googlenets_maps_are_torchvisions():
    torch.manual_seed(0)
    theirs = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=False).eval()
    ours = create_backbone("googlenet").eval()
    ours.network.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc")})
    assert [tuple(spec) for spec in ours.specs] == [(64, 2), (192, 4), (480, 8), (832, 16), (1024, 32)]
    seen = {}
    for name in ("conv1", "conv3", "inception3b", "inception4e", "inception5b"):
        theirs.get_submodule(name).register_forward_hook(lambda m, i, out, name=name: seen.update({name: out}))
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        theirs(x)
        for level, expected in zip(ours(x), seen.values(), strict=True):
            torch.testing.assert_close(level, expected)


def test_function_calls_become_modules():
    """Inception v3 pools by function calls, so timm's takes no size but its own; torchvision's is traced."""
    with torch.device("meta"):
        backbone = create_backbone("inception_v3", output_stride=8)
    assert [spec.stride for spec in backbone.specs] == [2, 4, 8, 8, 8]
    dilations = {module.dilation for module in backbone.modules() if isinstance(module, nn.Conv2d)}
    assert dilations == {(1, 1), (2, 2), (4, 4)}


def test_bands_of_torchvisions_networks():
    backbone = create_backbone("squeezenet1_1", in_channels=5).eval()
    assert [tuple(spec) for spec in backbone.specs] == [(64, 2), (128, 4), (256, 8), (512, 16)]
    with torch.no_grad():
        assert backbone(torch.randn(1, 5, 33, 20))[-1].shape == (1, 512, 3, 2)


def test_pspnets_stem():
    """Three 3x3 convolutions of 64, 64 and 128 channels, then the pool."""
    with torch.device("meta"):
        backbone = create_backbone("resnet50", stem="deep")
    stem = [m for name, m in backbone.network.named_modules() if name.startswith("conv1") and isinstance(m, nn.Conv2d)]
    assert [(conv.in_channels, conv.out_channels, conv.stride[0]) for conv in stem] == [
        (3, 64, 2),
        (64, 64, 1),
        (64, 128, 1),
    ]
    convs = 9 * (3 * 64 + 64 * 64 + 64 * 128) - 49 * 3 * 64  # in place of 7x7
    norms = 2 * (64 + 64 + 128) - 2 * 64
    wider = 64 * (64 + 256)  # two 1x1 convolutions read 128 channels, not 64
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 23_508_032 + convs + norms + wider


def test_depth_and_momentum():
    backbone = create_backbone("test_resnet", depth=3, norm_momentum=0.05)
    assert [spec.stride for spec in backbone.specs] == [2, 4, 8]
    assert {norm.momentum for norm in backbone.modules() if isinstance(norm, nn.BatchNorm2d)} == {0.05}


@pytest.mark.parametrize(
    ("name", "options", "kind", "message"),
    [
        ("resnet50", {"stem": "wide"}, UsageError, "stem is 'deep' or left out, got 'wide'"),
        ("resnet50", {"norm_momentum": 0}, UsageError, "norm_momentum must be above 0 and at most 1, got 0"),
        ("resnet50", {"depth": 1}, UsageError, "depth must be at least 2 levels, got 1"),
        ("vgg11", {"pool_size": 1}, UsageError, "pool_size must be at least 2, got 1"),
        (
            "vgg11",
            {"stem": "deep"},
            UnsupportedError,
            "stem='deep' is for ResNets of timm, for example resnet50; got 'vgg11'",
        ),
        (
            "resnet50",
            {"stem": "deep", "pretrained": True},
            UnsupportedError,
            "there are no ImageNet weights of backbone 'resnet50' with stem='deep'; start without (--init none)",
        ),
        (
            "alexnet",
            {"depth": 2},
            UnsupportedError,
            "backbone 'alexnet' is torchvision's, which takes no stem and no depth; leave them out",
        ),
        (
            "vit_b_16",
            {},
            UnsupportedError,
            "backbone 'vit_b_16' has no feature pyramid from stride 4 or finer down to 8 or coarser; take for example "
            + CONVOLUTIONAL,
        ),
    ],
)
def test_options_that_do_not_fit(name, options, kind, message):
    with pytest.raises(kind) as error:
        create_backbone(name, **options)
    assert str(error.value) == message


def test_weights_that_cannot_be_had(monkeypatch):
    def refuse(*arguments, **options):
        raise OSError("no route to host\nand more")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(CheckpointError) as error:
        create_backbone("squeezenet1_1", pretrained=True)
    assert str(error.value) == (
        "cannot load the ImageNet weights of backbone 'squeezenet1_1': no route to host. Connect to the internet for "
        "the first use, or point TORCH_HOME at a folder that holds them, or start without them (--init none, "
        "pretrained=False)."
    )
