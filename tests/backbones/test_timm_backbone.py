# SPDX-License-Identifier: Apache-2.0
import pytest
import timm
import torch

from denseg.backbones import backbone_names, create_backbone
from denseg.backbones.sizes import Sizes
from denseg.errors import UnknownNameError, UnsupportedError, UsageError

EXAMPLES = "resnet50, mobilenetv2_100, efficientnet_b0, convnext_tiny, swin_tiny_patch4_window7_224"
CONVOLUTIONAL = "resnet50, vgg16_bn, densenet121, mobilenetv2_100, efficientnet_b0, convnext_tiny, xception65"

# One network per way of treating sizes: any size; patches cut without padding; maps channels-last; pools that round
# down; aggregation that mixes both; unpadded convolutions; windows of attention.
KINDS = {
    "test_resnet": Sizes(),
    "test_convnext": Sizes(),
    "test_mambaout": Sizes(channels_first=False),
    "test_efficientnet": Sizes(),
    "vgg11_bn": Sizes(),
    "dla46_c": Sizes(),
    "legacy_xception": Sizes(),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_level_is_the_size_over_its_stride_rounded_up(name):
    backbone = create_backbone(name).eval()
    assert backbone.sizes == KINDS[name]
    assert backbone.training is False
    for height, width in ((1, 1), (2, 70), (33, 31), (64, 32)):
        with torch.no_grad():
            levels = backbone(torch.randn(2, 3, height, width))
        assert [tuple(level.shape) for level in levels] == [
            (2, spec.channels, -(-height // spec.stride), -(-width // spec.stride)) for spec in backbone.specs
        ]


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_training_works_on_a_single_pixel(name):
    backbone = create_backbone(name)
    assert backbone.training
    levels = backbone(torch.randn(1, 3, 1, 1))
    sum(level.sum() for level in levels).backward()
    assert all(torch.isfinite(level).all() for level in levels)


def test_padding_changes_nothing_where_the_size_fits():
    backbone = create_backbone("test_convnext").eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for ours, theirs in zip(backbone(x), backbone.network(x), strict=True):
            assert torch.equal(ours, theirs)


def test_state_is_timms():
    ours = create_backbone("test_resnet").network.state_dict()
    theirs = timm.create_model("test_resnet", features_only=True).state_dict()
    assert ours.keys() == theirs.keys()


def test_bands():
    backbone = create_backbone("test_resnet", in_channels=7).eval()
    assert backbone.in_channels == 7
    with torch.no_grad():
        assert backbone(torch.randn(1, 7, 16, 16))[0].shape == (1, 32, 8, 8)


def test_level():
    backbone = create_backbone("test_resnet", output_stride=8)
    assert [spec.stride for spec in backbone.specs] == [2, 4, 8, 8, 8]
    assert (backbone.level(4), backbone.level(8), backbone.level(16)) == (1, 2, None)
    with pytest.raises(UnsupportedError) as error:
        backbone.require_level(1, by="this")
    assert str(error.value) == (
        "this needs a feature map of stride 1, backbone 'test_resnet' has strides 2, 4, 8, 8, 8; "
        "take a convolutional backbone such as resnet50, convnext_tiny or mobilenetv2_100"
    )


def test_unknown_names():
    with pytest.raises(UnknownNameError) as name:
        create_backbone("resnet5O")
    assert str(name.value) == (
        f"no backbone named 'resnet5O'. Did you mean 'resnet50'? Known: {len(backbone_names())} names, "
        "see `denseg models`"
    )
    with pytest.raises(UnknownNameError) as tag:
        create_backbone("test_resnet.r16O_in1k")
    assert str(tag.value) == (
        "no backbone named 'test_resnet.r16O_in1k'. Did you mean 'test_resnet.r160_in1k'? "
        "Known: test_resnet, test_resnet.r160_in1k"
    )


def test_what_has_no_pyramid_is_refused():
    with pytest.raises(UnsupportedError) as error:
        create_backbone("test_vit")
    assert str(error.value) == (
        "backbone 'test_vit' has no feature pyramid (its maps have strides 16, 16, 16; 4 or finer down to 8 or "
        f"coarser is needed); take for example {CONVOLUTIONAL}"
    )


def test_what_takes_one_size_only_is_refused():
    with pytest.raises(UnsupportedError) as error:
        create_backbone("efficientformerv2_s0")
    assert str(error.value) == (
        f"backbone 'efficientformerv2_s0' does not take images of any size; take one that does, for example {EXAMPLES}"
    )


def test_output_strides_that_cannot_be_had():
    with pytest.raises(UsageError) as larger:
        create_backbone("test_resnet", output_stride=64)
    assert str(larger.value) == ("backbone 'test_resnet' has output stride 32; it can be made smaller, not 64")
    for stride in (2, 12):
        with pytest.raises(UsageError) as odd:
            create_backbone("test_resnet", output_stride=stride)
        assert str(odd.value) == f"output_stride must be 4, 8, 16 or 32, got {stride}"
    assert create_backbone("test_mambaout", output_stride=32).output_stride == 32
