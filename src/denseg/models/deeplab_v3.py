# SPDX-License-Identifier: Apache-2.0
"""DeepLab v3: a backbone with multi-grid, atrous spatial pyramid pooling with image-level features, a classifier.

Paper:
    L.-C. Chen, G. Papandreou, F. Schroff, H. Adam, "Rethinking Atrous Convolution for Semantic Image Segmentation",
    2017. https://arxiv.org/abs/1706.05587 - Sections 3.2 and 3.3, Figure 5.
Reference code:
    https://github.com/tensorflow/models/tree/master/research/deeplab (not copied); torchvision ``deeplabv3_resnet50``
    (equal with copied weights) and segmentation_models_pytorch ``DeepLabV3`` (equal in the layout ``smp``).
Departures from the paper:
    A 3x3 convolution follows the pyramid, unless ``layout="paper"``: torchvision and MMSegmentation have it.
    Interpolation does not align corners, batch norm of the head keeps torch's momentum of 0.1.
    Multi-grid is the backbone's option ``multi_grid``, off unless asked: weights of ImageNet are used with or without.
    With ``dilation_rule="uniform"`` a ResNet of timm has the rates of the released one (2, 4, 8 at output stride 16).
Cost:
    The backbone dominates; at output stride 8 it takes nearly four times that of 16.

Shape letters: B batch, C image bands, K classes, D channels, H and W image height and width, h and w feature height
and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from torch import Tensor, nn

from denseg.errors import UsageError
from denseg.layers import ASPP, ConvBlock, init_classifier
from denseg.models.auxiliary import AuxiliaryHead
from denseg.models.interface import SegmentationModel
from denseg.ops import resize
from denseg.types import Geometry, SegmentationOutput

if TYPE_CHECKING:
    from denseg.backbones import Backbone

__all__ = ["NO_GRADIENT", "DeepLabV3", "pyramid_rates"]

NO_GRADIENT: Mapping[str, str] = MappingProxyType({})


class DeepLabV3(SegmentationModel):
    """DeepLab v3 on any backbone."""

    def __init__(  # noqa: PLR0913 - those of the pyramid, and the layout
        self,
        num_classes: int,
        *,
        backbone: Backbone,
        dilations: Sequence[int] | None = None,
        channels: int = 256,
        conv: str = "full",
        groups: int = 4,
        image_pooling: bool = True,
        image_pooling_size: int | None = None,
        auxiliary: bool = False,
        layout: str = "torchvision",
        dropout: float | None = None,
    ) -> None:
        """Create pyramid pooling and classifiers.

        Args:
            num_classes: Classes scored per pixel, K.
            backbone: The backbone.
            dilations: Rates of the pyramid; 6, 12, 18 at output stride 16 and in proportion at others if ``None``.
            channels: Channels of the head, D.
            conv: Form of the pyramid's 3x3 convolutions: ``full``, ``separable`` or ``grouped``.
            groups: Groups of the grouped form.
            image_pooling: Whether the mean of the map is a branch.
            image_pooling_size: Side of a fixed window of that mean, in positions; the whole map if ``None``.
            auxiliary: Whether a second classifier sits on the last level but one, as torchvision's may.
            layout: ``torchvision``: a 3x3 convolution stands between pyramid and classifier, as in most trained
                weights there are. ``paper``: none does.
                ``smp``: the same, and maps grow with aligned corners.
            dropout: Probability of dropping a value of the pyramid's output in training; 0.1, in other layouts than the
                paper's 0.5, if ``None``.

        Raises:
            UsageError: ``layout`` is unknown.
        """
        super().__init__()
        if layout not in {"paper", "smp", "torchvision"}:
            raise UsageError(f"layout is 'paper', 'torchvision' or 'smp', got {layout!r}")
        self.num_classes = num_classes
        self.in_channels = backbone.in_channels
        self.backbone = backbone
        self.align_corners = layout == "smp"
        stride = backbone.output_stride
        self.aspp = ASPP(
            backbone.specs[-1].channels,
            dilations=pyramid_rates(stride) if dilations is None else dilations,
            out_channels=channels,
            conv=conv,
            groups=groups,
            image_pooling=image_pooling,
            image_pooling_size=image_pooling_size,
            dropout=(0.1 if layout == "paper" else 0.5) if dropout is None else dropout,
        )
        self.refinement = nn.Identity() if layout == "paper" else ConvBlock(channels, channels)
        self.classifier = init_classifier(nn.Conv2d(channels, num_classes, 1))
        self.auxiliary = AuxiliaryHead(backbone, num_classes) if auxiliary else None
        self.geometry = Geometry(score_stride=stride, total_stride=stride)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel.

        Args:
            images: ``(B, C, H, W)``, floating point, any H and W >= 1.

        Returns:
            Scores of the image's size; ``features`` has D channels at the backbone's output stride.
        """
        size = (images.shape[-2], images.shape[-1])
        levels = self.backbone(images)
        features: Tensor = self.refinement(self.aspp(levels[-1]))  # (B, D, h, w)
        heatmap: Tensor = self.classifier(features)  # (B, K, h, w)
        logits = resize(heatmap, size, align_corners=self.align_corners)  # (B, K, H, W)
        aux_logits = () if self.auxiliary is None else (self.auxiliary(levels, size),)
        return SegmentationOutput(logits, aux_logits, heatmap, features)


def pyramid_rates(output_stride: int) -> tuple[int, ...]:
    """Give the pyramid's rates at an output stride: 6, 12, 18 at 16, doubled at 8.

    Args:
        output_stride: Of the backbone.

    Returns:
        Three rates.
    """
    return tuple(max(1, rate * 16 // output_stride) for rate in (6, 12, 18))
