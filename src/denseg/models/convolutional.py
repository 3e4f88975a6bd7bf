# SPDX-License-Identifier: Apache-2.0
"""Classifiers made convolutional: fully connected layers become convolutions, one score becomes a map of scores.

Paper:
    J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015.
    https://arxiv.org/abs/1411.4038 - Section 3.1, Figure 2.

Shape letters: B batch, C image bands, K classes, D channels, H and W image height and width, h and w heatmap height and
width.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from denseg.errors import ShapeError, UnsupportedError, UsageError
from denseg.ops import center_crop

__all__ = ["FullyConvolutional", "fully_convolutional"]

_GOOGLENET_LEVELS = ("conv1", "maxpool1", "conv2", "conv3", "maxpool2", "inception3a", "inception3b", "maxpool3",
                     "inception4a", "inception4b", "inception4c", "inception4d", "inception4e", "maxpool4",
                     "inception5a", "inception5b")  # fmt: skip
_GOOGLENET_POOL = 7  # side of the last map at 224x224, which the classifier averages


class FullyConvolutional(nn.Module):
    """A classifier that scores every window of an image, at the classifier's stride.

    Attributes:
        num_classes: Classes of the classifier, K.
        window: Positions of the last feature map that one score sees, per side.
    """

    def __init__(self, trunk: nn.Module, head: nn.Module, *, num_classes: int, window: int) -> None:
        """Join feature layers and the former fully connected layers.

        Args:
            trunk: From images to the last feature map.
            head: From the last feature map to scores.
            num_classes: K.
            window: Positions that the head's first layer sees, per side.
        """
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.num_classes = num_classes
        self.window = window

    def forward(self, images: Tensor) -> Tensor:
        """Score every window.

        Args:
            images: ``(B, C, H, W)``, floating point, at least as large as what the classifier sees.

        Returns:
            The heatmap ``(B, K, h, w)``: 1x1 for an image of the classifier's own size.

        Raises:
            ShapeError: The image is smaller than one window.
        """
        features = self.trunk(images)  # (B, D, h', w')
        if min(features.shape[-2:]) < self.window:
            raise ShapeError(
                f"an image of {images.shape[-2]}x{images.shape[-1]} gives a feature map of {features.shape[-2]}x"
                f"{features.shape[-1]}, and the classifier sees {self.window}x{self.window} of it; give a larger image"
            )
        heatmap: Tensor = self.head(features)
        return heatmap


def fully_convolutional(classifier: nn.Module, *, padding: Literal["own", "valid"] = "own") -> FullyConvolutional:
    """Turn a classifier of torchvision into a network that gives a heatmap.

    The weights are copied. Adaptive pooling goes: at the classifier's own input size it does nothing (AlexNet, VGG) or
    averages 7x7 positions (GoogLeNet), and so does what takes its place at any size.

    Args:
        classifier: AlexNet, a VGG (with or without batch norm) or GoogLeNet of torchvision, with their fully connected
            layers; not changed. What GoogLeNet scores on the side in training is left out.
        padding: ``own`` keeps the padding of its convolutions: equal to the classifier on its own input size.
            ``valid`` takes all padding away: then every score equals that of its window alone, wherever it lies.

    Returns:
        The network, in the classifier's mode.

    Raises:
        UnsupportedError: The classifier is none of these.
        UsageError: ``padding`` is neither of the two.
    """
    if padding not in {"own", "valid"}:
        raise UsageError(f"padding is 'own' or 'valid', got {padding!r}")
    from torchvision.models import VGG, AlexNet, GoogLeNet  # a second to import

    source: Any = copy.deepcopy(classifier)
    if isinstance(source, GoogLeNet):
        trunk: nn.Module = _GoogLeNetTrunk(source, valid=padding == "valid")
        window = _GOOGLENET_POOL
        last = _as_conv(source.fc, 1)
        head = nn.Sequential(nn.AvgPool2d(window, stride=1), source.dropout, last)
    elif isinstance(source, (AlexNet, VGG)):
        trunk = source.features
        size = source.avgpool.output_size
        window = size if isinstance(size, int) else size[0]
        layers: list[nn.Module] = []
        side = window
        for layer in source.classifier:
            layers.append(_as_conv(layer, side) if isinstance(layer, nn.Linear) else layer)
            side = 1 if isinstance(layer, nn.Linear) else side
        head = nn.Sequential(*layers)
        last = next(layer for layer in reversed(layers) if isinstance(layer, nn.Conv2d))
    else:
        raise UnsupportedError(
            f"AlexNet, VGG and GoogLeNet of torchvision can be made convolutional, got {type(classifier).__name__}"
        )
    if padding == "valid":
        _drop_padding(trunk)
    return FullyConvolutional(trunk, head, num_classes=last.out_channels, window=window).train(classifier.training)


class _GoogLeNetTrunk(nn.Module):
    """torchvision's GoogLeNet up to its last map."""

    def __init__(self, source: Any, *, valid: bool) -> None:
        super().__init__()
        self.transform_input = source.transform_input
        self.layers = nn.ModuleDict(
            {
                name: _ValidInception(getattr(source, name))
                if valid and name.startswith("inception")
                else getattr(source, name)
                for name in _GOOGLENET_LEVELS
            }
        )

    def forward(self, images: Tensor) -> Tensor:
        x = _undo_normalization(images) if self.transform_input else images
        for layer in self.layers.values():
            x = layer(x)
        return x


class _ValidInception(nn.Module):
    """An Inception block whose branches, without padding of different sizes, are cut to their common middle."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.branches = nn.ModuleList([block.branch1, block.branch2, block.branch3, block.branch4])

    def forward(self, x: Tensor) -> Tensor:
        maps = [branch(x) for branch in self.branches]
        size = min(map_.shape[-2] for map_ in maps), min(map_.shape[-1] for map_ in maps)
        return torch.cat([center_crop(map_, size) for map_ in maps], dim=1)


def _undo_normalization(images: Tensor) -> Tensor:
    """From ImageNet's normalisation to (-1, 1), in which torchvision's ported weights were trained."""
    std = images.new_tensor((0.229, 0.224, 0.225))[:, None, None]
    mean = images.new_tensor((0.485, 0.456, 0.406))[:, None, None]
    return (images * std + mean - 0.5) / 0.5


def _as_conv(linear: nn.Linear, side: int) -> nn.Conv2d:
    channels = linear.in_features // (side * side)
    conv = nn.Conv2d(channels, linear.out_features, side, bias=linear.bias is not None)
    with torch.no_grad():
        conv.weight.copy_(linear.weight.view(linear.out_features, channels, side, side))  # flattened in this order
        if conv.bias is not None:
            conv.bias.copy_(linear.bias)
    return conv.to(device=linear.weight.device, dtype=linear.weight.dtype)


def _drop_padding(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d)):
            module.padding = (0, 0) if isinstance(module, nn.Conv2d) else 0
