# SPDX-License-Identifier: Apache-2.0
"""Multi-scale context on the scores of a front end: Dilation7, Dilation8 and Dilation10.

Paper:
    F. Yu, V. Koltun, "Multi-Scale Context Aggregation by Dilated Convolutions", ICLR 2016.
    https://arxiv.org/abs/1511.07122 - Sections 3 to 5.
Reference code:
    https://github.com/fyu/dilation (not copied).
Departures from the paper:
    As in ``dilated_frontend`` and in the ``DilatedContext`` layer.
Cost:
    The front end; the basic module adds 64 K**2 products per position, the large one 240 times as many.

Shape letters: B batch, C image bands, K classes, D channels, H and W image height and width, h and w feature height
and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from denseg.errors import UsageError
from denseg.layers import DilatedContext
from denseg.models.dilated_frontend import (
    MARGIN,
    SMALLEST,
    DilatedFrontend,
    PaperDilatedFrontend,
    check_size,
    create_score,
    deepest_map,
    dilated_vgg16,
)
from denseg.models.interface import SegmentationModel
from denseg.models.transplant import load_vgg16
from denseg.ops import resize
from denseg.types import Geometry, SegmentationOutput

if TYPE_CHECKING:
    from denseg.backbones import Backbone

__all__ = ["NO_GRADIENT", "DilatedContextNet", "PaperDilatedContextNet", "PlugIn", "plug_in_context"]

NO_GRADIENT: Mapping[str, str] = MappingProxyType({})


class DilatedContextNet(SegmentationModel):
    """Front end with padding, or any backbone of stride 8, and the context module on its scores."""

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Backbone | None = None,
        in_channels: int = 3,
        width: float = 1.0,
        size: Literal["basic", "large"] = "basic",
        layers: int = 8,
        init: Literal["identity", "random"] = "identity",
        noise: float = 0.01,
    ) -> None:
        """Create front end and module.

        Args:
            num_classes: Classes scored per pixel, K: the module's channels.
            backbone: A backbone of output stride 8; the paper's VGG16 if ``None``.
            in_channels: Image bands; with a backbone, those of the backbone.
            width: Multiplies the channels of VGG16.
            size: ``basic`` or ``large``, see ``DilatedContext``.
            layers: 7, 8 or 10: Dilation7 for KITTI, Dilation8 for CamVid and VOC, Dilation10 for Cityscapes.
            init: ``identity`` or ``random``, see ``DilatedContext``.
            noise: See ``DilatedContext``.

        Raises:
            UsageError: An option is unknown or out of range.
        """
        super().__init__()
        self.num_classes = num_classes
        if backbone is not None and width != 1.0:
            raise UsageError("width scales the front end's own VGG16; a backbone has its own channels")
        self.in_channels = in_channels if backbone is None else backbone.in_channels
        self.backbone = dilated_vgg16(in_channels, width=width, padded=True) if backbone is None else backbone
        self.score = create_score(self.backbone, num_classes)
        self.context = DilatedContext(num_classes, size=size, layers=layers, init=init, noise=noise)
        stride = 8 if backbone is None else backbone.output_stride
        self.geometry = Geometry(score_stride=stride, total_stride=stride)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel.

        Args:
            images: ``(B, C, H, W)``, floating point, any H and W >= 1.

        Returns:
            Scores of the image's size; ``features`` is what the front end's classifier sees.
        """
        features = deepest_map(self.backbone(images))  # (B, D, h, w)
        heatmap: Tensor = self.context(self.score(features))  # (B, K, h, w)
        return SegmentationOutput(resize(heatmap, (images.shape[-2], images.shape[-1])), (), heatmap, features)

    def load_imagenet(self) -> None:
        """Start the trunk from ImageNet weights of VGG16; batch norms and scores stay as they are."""
        load_vgg16(self.backbone)


class PaperDilatedContextNet(SegmentationModel):
    """The valid front end and the context module, which pads its own maps."""

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        width: float = 1.0,
        size: Literal["basic", "large"] = "basic",
        layers: int = 8,
        init: Literal["identity", "random"] = "identity",
        noise: float = 0.01,
    ) -> None:
        """Create front end and module.

        Args:
            num_classes: Classes scored per pixel, K: the module's channels.
            in_channels: Image bands.
            width: Multiplies the channels of VGG16.
            size: ``basic`` or ``large``, see ``DilatedContext``.
            layers: 7, 8 or 10: Dilation7 for KITTI, Dilation8 for CamVid and VOC, Dilation10 for Cityscapes.
            init: ``identity`` or ``random``, see ``DilatedContext``.
            noise: See ``DilatedContext``.
        """
        super().__init__()
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.backbone = dilated_vgg16(in_channels, width=width, padded=False)
        self.score = create_score(self.backbone, num_classes)
        self.context = DilatedContext(num_classes, size=size, layers=layers, init=init, noise=noise)
        reach = self.context.receptive_field // 2  # positions of the heatmap that the module's padding touches
        self.geometry = Geometry(
            margin=MARGIN, score_stride=8, total_stride=8, size_step=8, size_offset=4, min_size=SMALLEST,
            seam=8 * reach + 4,
        )  # fmt: skip

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel that has context on all sides.

        Args:
            images: ``(B, C, H, W)``, floating point, H and W of the form 8 k + 4, at least 380.

        Returns:
            ``(B, K, H - 372, W - 372)`` scores; ``heatmap`` is an eighth of it.
        """
        size = check_size(images)
        features = deepest_map(self.backbone(images))  # (B, D, h, w)
        heatmap: Tensor = self.context(self.score(features))  # (B, K, h, w)
        return SegmentationOutput(resize(heatmap, size), (), heatmap, features)

    def load_imagenet(self) -> None:
        """Start the trunk from ImageNet weights of VGG16; batch norms and scores stay as they are."""
        load_vgg16(self.backbone)


class PlugIn(NamedTuple):
    """What happens to a trained front end's labels when an untrained context module is put behind it.

    Attributes:
        changed: Share of heatmap positions whose label is another one.
        negative: Share of positions at which no class has a positive score: the module's first truncation makes them
            all zero there, and without noise no other label changes.
    """

    changed: float
    negative: float

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"the context module as initialised changes {self.changed:.2%} of the labels; "
            f"at {self.negative:.2%} of the positions no class has a positive score"
        )


@torch.no_grad()
def plug_in_context(
    model: DilatedContextNet | PaperDilatedContextNet,
    front_end: DilatedFrontend | PaperDilatedFrontend,
    images: Tensor,
) -> PlugIn:
    """Give a model the weights of a trained front end, and tell what its context module does to the labels.

    Args:
        model: Front end and module; its trunk and classifier are overwritten.
        front_end: The trained front end, of the same form and width.
        images: ``(B, C, H, W)``, to look at.

    Returns:
        The change.
    """
    model.backbone.load_state_dict(front_end.backbone.state_dict())
    model.score.load_state_dict(front_end.score.state_dict())
    was_training = model.training
    model.eval()
    scores = model.score(deepest_map(model.backbone(images)))  # (B, K, h, w)
    refined = model.context(scores)
    model.train(was_training)
    changed = (refined.argmax(dim=1) != scores.argmax(dim=1)).float().mean().item()
    return PlugIn(changed, (scores.amax(dim=1) <= 0).float().mean().item())
