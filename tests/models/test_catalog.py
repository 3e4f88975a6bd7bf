# SPDX-License-Identifier: Apache-2.0
import inspect
import json

import pytest
import torch

from denseg.errors import UnknownNameError, UnsupportedError, UsageError
from denseg.models import MODELS, create_model, split_parameters
from denseg.models.catalog import ModelEntry


def test_the_spec_builds_the_model_again():
    model = create_model(
        "deeplab_v3_plus", num_classes=3, backbone="test_resnet", in_channels=5, dilations=(2, 3), channels=16
    )
    assert model.spec.name == "deeplab_v3_plus"
    arguments = json.loads(json.dumps(model.spec.arguments))
    assert arguments == {
        "num_classes": 3,
        "in_channels": 5,
        "form": "modern",
        "backbone": "test_resnet",
        "output_stride": 16,
        "conv": "separable",
        "separable": None,
        "groups": 4,
        "dilations": [2, 3],
        "image_pooling": True,
        "image_pooling_size": None,
        "decoder": True,
        "low_level_channels": 48,
        "decoder_channels": None,
        "decoder_convs": None,
        "decoder_kernel": 3,
        "channels": 16,
        "layout": "paper",
        "dropout": None,
    }
    again = create_model(model.spec.name, **arguments)
    assert again.spec == model.spec
    again.load_state_dict(model.state_dict())


def test_defaults():
    model = create_model("unet", num_classes=2, width=0.125)
    assert (model.num_classes, model.in_channels) == (2, 3)
    assert "backbone" not in model.spec.arguments


def test_an_option_given_as_none_means_its_default():
    model = create_model("unet", num_classes=2, backbone="test_resnet", width=None, decoder_channels=None)
    assert model.spec.arguments["width"] == 1.0


def test_every_entry_names_only_what_its_constructor_takes():
    for entry in MODELS.values():
        assert isinstance(entry, ModelEntry)
        parameters = inspect.signature(entry.modern).parameters
        assert next(iter(parameters)) == "num_classes"
        assert (entry.backbone is not None) <= ("backbone" in parameters)


def test_parts():
    model = create_model("fcn", num_classes=2, backbone="test_resnet")
    parts = split_parameters(model)
    assert set(parts) == {"backbone", "head"}
    assert all(name.startswith("backbone.network.") for name in parts["backbone"])
    assert {name.partition(".")[0] for name in parts["head"]} == {"head", "classifier", "aux_head", "aux_classifier"}
    assert sum(map(len, parts.values())) == len(list(model.parameters()))


def error_of(kind, *args, **options):
    with pytest.raises(kind) as error:
        create_model(*args, **options)
    return str(error.value)


def test_errors():
    assert error_of(UnknownNameError, "une", num_classes=2) == (
        f"no model named 'une'. Did you mean 'unet'? Known: {', '.join(sorted(MODELS))}"
    )
    assert error_of(UsageError, "unet", num_classes=0) == "num_classes must be at least 1, got 0"
    assert error_of(UsageError, "unet", num_classes=2, in_channels=0) == "in_channels must be at least 1, got 0"
    assert error_of(UsageError, "unet", num_classes=2, form="old") == "form is 'modern' or 'paper', got 'old'"
    assert error_of(UsageError, "unet", num_classes=2, wdith=0.5) == (
        "model 'unet' (modern form) has no option 'wdith'. Did you mean 'width'? Its options: decoder_channels, "
        "skips, width"
    )
    assert error_of(UsageError, "unet", num_classes=2, width="half") == (
        "model 'unet' (modern form) takes float for width, got 'half'"
    )
    assert error_of(UsageError, "deeplab_v3_plus", num_classes=2, dilations=[6, 12.5]) == (
        "model 'deeplab_v3_plus' (modern form) takes Sequence[int] | None for dilations, got [6, 12.5]"
    )
    assert error_of(UsageError, "deeplab_v3_plus", num_classes=2, separable=1) == (
        "model 'deeplab_v3_plus' (modern form) takes bool | None for separable, got 1"
    )
    assert error_of(UnsupportedError, "fcn", num_classes=2, form="paper") == (
        "model 'fcn' has no paper form; leave form out, or use form='modern'"
    )
    assert error_of(UsageError, "unet", num_classes=2, output_stride=8) == (
        "model 'unet' is built without a backbone here, so it takes no output_stride; name a backbone"
    )
    assert error_of(UsageError, "unet", num_classes=2, pretrained=True) == (
        "model 'unet' is built without a backbone here, so it takes no pretrained weights; name a backbone"
    )
    assert error_of(UsageError, "unet", num_classes=2, backbone="resnet18", form="paper") == (
        "model 'unet' (paper form) has a fixed trunk; leave backbone out"
    )


def test_building_leaves_the_random_state_to_the_seed():
    torch.manual_seed(0)
    first = create_model("unet", num_classes=2, backbone="test_resnet")
    torch.manual_seed(0)
    second = create_model("unet", num_classes=2, backbone="test_resnet")
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)
