# SPDX-License-Identifier: Apache-2.0
"""Classifiers made convolutional: equal on their own input, and slid over larger images."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from denseg.errors import ShapeError, UnsupportedError, UsageError
from denseg.models import fully_convolutional

torchvision = pytest.importorskip("torchvision")

VGG16: Any = [2, 2, "M", 3, 3, "M", 4, 4, 4, "M", 6, 6, 6, "M", 8, 8, 8, "M"]


def classifier_of(name: str) -> Any:
    """torchvision's own classes, with fewer channels where theirs are many."""
    torch.manual_seed(0)
    models = torchvision.models
    if name == "googlenet":
        network = models.googlenet(weights=None, num_classes=5, init_weights=False, transform_input=True)
        network.train()
        for batch_norm in network.modules():  # statistics that are not those of an untrained net
            if isinstance(batch_norm, nn.BatchNorm2d):
                nn.init.uniform_(batch_norm.running_mean, -0.1, 0.1)
                nn.init.uniform_(batch_norm.running_var, 0.5, 1.5)
        return network.eval()
    if name == "alexnet":
        network = models.alexnet(weights=None, num_classes=5)
        network.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(256 * 36, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 16), nn.ReLU(),
            nn.Linear(16, 5),
        )  # fmt: skip
        return network.eval()
    vgg = models.vgg
    network = vgg.VGG.__new__(vgg.VGG)
    nn.Module.__init__(network)
    network.features = vgg.make_layers(VGG16, batch_norm=name.endswith("bn"))
    network.avgpool = nn.AdaptiveAvgPool2d((7, 7))
    network.classifier = nn.Sequential(
        nn.Linear(8 * 49, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 5)
    )
    return network.eval()


@pytest.mark.parametrize("name", ["alexnet", "vgg", "vgg_bn", "googlenet"])
def test_equal_to_the_classifier_on_its_own_size(name: str) -> None:
    classifier = classifier_of(name)
    before = copy.deepcopy(classifier.state_dict())
    network = fully_convolutional(classifier)
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        heatmap = network(x)
        assert heatmap.shape == (2, 5, 1, 1)
        torch.testing.assert_close(heatmap[..., 0, 0], classifier(x), rtol=1e-5, atol=1e-5)
        assert network(torch.randn(1, 3, 256, 288)).shape == (1, 5, 2, 3)
    assert all(torch.equal(before[key], value) for key, value in classifier.state_dict().items())
    assert network.num_classes == 5


@pytest.mark.parametrize(("name", "field"), [("alexnet", 355), ("vgg", 404)])
def test_without_padding_equal_to_the_classifier_slid_over_the_image(name: str, field: int) -> None:
    classifier = classifier_of(name)
    network = fully_convolutional(classifier, padding="valid")
    for module in classifier.modules():  # torchvision's own layers, without their padding
        if isinstance(module, nn.Conv2d):
            module.padding = (0, 0)
    x = torch.randn(1, 3, field + 32, field + 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        heatmap = network(x)
        assert heatmap.shape[2:] == (2, 3)
        for row in range(2):
            for column in range(3):
                window = x[..., 32 * row : 32 * row + field, 32 * column : 32 * column + field]
                torch.testing.assert_close(heatmap[..., row, column], classifier(window), rtol=1e-5, atol=1e-5)


def test_googlenet_without_padding_moves_with_the_image() -> None:
    network = fully_convolutional(classifier_of("googlenet"), padding="valid")
    x = torch.randn(1, 3, 635, 571, generator=torch.Generator().manual_seed(1))  # torchvision's 5x5 kernels are 3x3
    with torch.no_grad():
        heatmap = network(x)
        window = network(x[..., 32:, :])
    assert (heatmap.shape[2:], window.shape[2:]) == ((3, 1), (2, 1))
    torch.testing.assert_close(heatmap[..., 1:, :], window, rtol=1e-4, atol=1e-5)


def test_a_linear_layer_is_a_convolution() -> None:
    """The identity behind it, in float32: flatten then multiply, or convolve with the reshaped kernel."""
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(6, 5 * 9, generator=generator), torch.randn(2, 5, 3, 3, generator=generator)
    torch.testing.assert_close(F.conv2d(x, weight.view(6, 5, 3, 3))[..., 0, 0], x.flatten(1) @ weight.T)


def test_training_mode_is_kept_and_gradients_flow() -> None:
    network = fully_convolutional(classifier_of("vgg").train())
    assert network.training
    network(torch.randn(1, 3, 224, 224)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_errors() -> None:
    with pytest.raises(UnsupportedError) as other:
        fully_convolutional(nn.Linear(2, 2))
    assert str(other.value) == "AlexNet, VGG and GoogLeNet of torchvision can be made convolutional, got Linear"
    with pytest.raises(UsageError) as padding:
        fully_convolutional(nn.Linear(2, 2), padding="same")  # type: ignore[arg-type]
    assert str(padding.value) == "padding is 'own' or 'valid', got 'same'"
    with pytest.raises(ShapeError) as small:
        fully_convolutional(classifier_of("vgg"))(torch.zeros(1, 3, 100, 224))
    assert str(small.value) == (
        "an image of 100x224 gives a feature map of 3x7, and the classifier sees 7x7 of it; give a larger image"
    )
