# SPDX-License-Identifier: Apache-2.0
"""Small networks of known reach, independent of the catalog's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from denseg.types import Geometry, SegmentationOutput


class TinyUNet(nn.Module):
    """A same-padding U-Net: two 3x3 convolutions a level, max pooling, ``up`` transposed, bilinear or nearest."""

    def __init__(self, depth=2, *, up="transposed", width=4, in_channels=3, num_classes=3, norm=nn.Identity):
        super().__init__()
        self.depth, self.up, self.num_classes, self.in_channels = depth, up, num_classes, in_channels
        self.geometry = Geometry(score_stride=1, total_stride=2**depth)

        def block(before, after):
            convs = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
            return nn.Sequential(convs[0], norm(after), nn.ReLU(), convs[1], nn.ReLU())

        self.down = nn.ModuleList(block(in_channels if level == 0 else width, width) for level in range(depth + 1))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(width, width, 2, stride=2) for _ in range(depth))
        self.merge = nn.ModuleList(block(2 * width, width) for _ in range(depth))
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images):
        skips, x = [], images
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        skips.pop()
        for grow, merge in zip(self.grow, self.merge, strict=True):
            skip = skips.pop()
            if self.up == "transposed":
                x = grow(x)
            elif self.up == "aligned":
                x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=True)
            else:
                x = F.interpolate(x, scale_factor=2, mode=self.up)
            x = merge(torch.cat([x, skip], 1))
        logits = self.head(x)
        return SegmentationOutput(logits, (), logits, x)


class ValidUNet(nn.Module):
    """Depth 2, unpadded convolutions: the result is 40 pixels smaller, sizes are multiples of 4."""

    def __init__(self, width=4, in_channels=1, num_classes=2):
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.geometry = Geometry(margin=20, score_stride=4, total_stride=4, size_step=4, min_size=44)

        def block(before, after):
            return nn.Sequential(nn.Conv2d(before, after, 3), nn.ReLU(), nn.Conv2d(after, after, 3), nn.ReLU())

        self.down = nn.ModuleList([block(in_channels, width), block(width, width), block(width, width)])
        self.grow = nn.ModuleList(nn.ConvTranspose2d(width, width, 2, stride=2) for _ in range(2))
        self.merge = nn.ModuleList(block(2 * width, width) for _ in range(2))
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images):
        first = self.down[0](images)
        second = self.down[1](F.max_pool2d(first, 2))
        x = self.down[2](F.max_pool2d(second, 2))
        for grow, merge, skip, cut in zip(self.grow, self.merge, (second, first), (4, 16), strict=True):
            x = merge(torch.cat([grow(x), skip[..., cut:-cut, cut:-cut]], 1))
        logits = self.head(x)
        return SegmentationOutput(logits, (), logits, x)


class Pooled(nn.Module):
    """A convolution plus the mean of the image: sees the whole image."""

    def __init__(self, in_channels=3, num_classes=3):
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.geometry = Geometry(score_stride=4, total_stride=4)
        self.local = nn.Conv2d(in_channels, 8, 4, stride=4)
        self.globe = nn.Conv2d(8, 8, 1)
        self.head = nn.Conv2d(8, num_classes, 1)

    def forward(self, images):
        x = self.local(images).relu()
        x = x + self.globe(x.mean((2, 3), keepdim=True))
        heatmap = self.head(x)
        logits = F.interpolate(heatmap, size=images.shape[-2:], mode="bilinear")
        return SegmentationOutput(logits, (), heatmap, x)


@pytest.fixture(scope="session")
def build():
    """``build("unet", depth=2, up="bilinear")`` gives a network in evaluation mode with weights from a fixed seed."""

    def make(kind, *, seed=0, **options):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return {"unet": TinyUNet, "valid": ValidUNet, "pooled": Pooled}[kind](**options).eval()

    return make
