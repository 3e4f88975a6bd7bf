# SPDX-License-Identifier: Apache-2.0
"""FCN-32s, -16s and -8s as released: classifiers made convolutional, padded by 100, cropped back to the image.

Paper:
    J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015.
    https://arxiv.org/abs/1411.4038 - Sections 3 and 4, Figure 3, Table 1.
Reference code:
    https://github.com/shelhamer/fcn.berkeleyvision.org (Caffe; not copied).
Departures from the paper:
    The paper says that the 2x steps learn and the last one does not (``upsampling="learned"``); the released nets fix
    all of them, which is the default. GoogLeNet's padding and crop were never published: they follow the others' rule.
Cost:
    Padding by 100 makes a 500x500 image a 698x698 one; fc6 holds 103 of VGG16's 134 million parameters.

Shape letters: B batch, C image bands, K classes, D channels, H and W image height and width, h and w feature height
and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

from torch import Tensor, nn

from denseg.errors import UnknownNameError, UnsupportedError, UsageError
from denseg.layers.bilinear_deconv import BilinearDeconv
from denseg.models.coordinates import Place, bilinear_kernel_size
from denseg.models.interface import SegmentationModel
from denseg.models.transplant import load_vgg16
from denseg.models.trunk import CAFFENET, GOOGLENET, VGG16, Conv, Row, Trunk
from denseg.types import Geometry, SegmentationOutput

__all__ = ["NO_GRADIENT", "TRUNKS", "PaperFCN"]

NO_GRADIENT: Mapping[str, str] = MappingProxyType({})

TRUNKS: Mapping[str, tuple[Row, ...]] = MappingProxyType({"vgg16": VGG16, "alexnet": CAFFENET, "googlenet": GOOGLENET})
"""The paper's trunks, by name: VGG16, CaffeNet (with response normalisation and groups), GoogLeNet of the BVLC."""

_POOL_SCALES = MappingProxyType({16: 0.01, 8: 0.0001})  # voc-fcn8s-atonce


class _Skip(NamedTuple):
    """A level whose scores are added: where it is taken, what it is multiplied by, where its crop begins."""

    tap: str
    scale: float
    start: int


class PaperFCN(SegmentationModel):
    """FCN-32s without ``skips``, FCN-16s with ``(16,)``, FCN-8s with ``(16, 8)``.

    Attributes:
        offsets: Where each crop begins, in the order of the paper: one per skip, and the last one on the image.
        receptive_field: Side of what a position of the deepest map sees, in pixels.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "vgg16",
        in_channels: int = 3,
        skips: Sequence[int] = (),
        at_once: bool = False,
        upsampling: Literal["fixed", "learned", "all"] = "fixed",
        padding: int = 100,
        width: float = 1.0,
    ) -> None:
        """Create trunk and score layers; the score layers start at zero, as in the paper.

        Args:
            num_classes: Classes scored per pixel, K.
            backbone: ``vgg16``, ``alexnet`` or ``googlenet``.
            in_channels: Image bands.
            skips: Strides of the pools whose scores are added, of 16, 8, 4 and 2 what the trunk has.
            at_once: Scale the pools by 0.01 and 0.0001 before they are scored, so that all learn from the start.
            upsampling: ``fixed`` bilinear kernels; ``learned`` ones but for the last; ``all`` of them learned.
            padding: Of the first convolution.
            width: Multiplies all channels of the trunk.

        Raises:
            UnknownNameError: The paper has no such trunk.
            UsageError: An option is unknown or out of range, or a skip that the trunk does not have.
        """
        super().__init__()
        if backbone not in TRUNKS:
            raise UnknownNameError("trunk of the paper's FCN", backbone, TRUNKS)
        if upsampling not in {"fixed", "learned", "all"}:
            raise UsageError(f"upsampling is 'fixed', 'learned' or 'all', got {upsampling!r}")
        if width <= 0:
            raise UsageError(f"width must be above 0, got {width}")
        self.num_classes = num_classes
        self.in_channels = in_channels
        first, *others = TRUNKS[backbone]
        rows = (first._replace(padding=padding), *others) if isinstance(first, Conv) else TRUNKS[backbone]
        self.backbone = Trunk(rows, in_channels=in_channels, width=width)
        self._deepest = rows[-1].name
        self.receptive_field = int(self.backbone.places[self._deepest].field)
        self.score_fr = nn.Conv2d(self.backbone.channels[self._deepest], num_classes, 1)
        self._skips: list[_Skip] = []
        self._grow: list[str] = []
        place = self._add_skips(backbone, skips, at_once=at_once, learned=upsampling != "fixed")
        stride = int(place.stride)
        name = "upscore" if stride == 32 else f"upscore{stride}"
        place = self._add_growth(name, place, stride, Place(), learned=upsampling == "all")
        if place.offset > 0:
            raise UsageError(f"padding must be at least {padding + place.offset} on this trunk, got {padding}")
        self._start = place.crop_onto(Place())
        self.offsets = (*(skip.start for skip in self._skips), self._start)
        for module in self.children():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
        self.geometry = Geometry(score_stride=stride, total_stride=32)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score every pixel.

        Args:
            images: ``(B, C, H, W)``, floating point, any H and W >= 1.

        Returns:
            Scores of the image's size; ``heatmap`` is their sum at the finest stride that is scored, cut to the image.
        """
        height, width = images.shape[-2:]
        maps = self.backbone(images)
        features = maps[self._deepest]  # (B, D, h, w)
        scores = self.score_fr(features)  # (B, K, h, w)
        for skip, grow in zip(self._skips, self._grow, strict=False):
            scores = self.get_submodule(grow)(scores)  # (B, K, 2h + 2, 2w + 2)
            level = maps[skip.tap]
            score = self.get_submodule(_score_name(skip.tap))(level * skip.scale if skip.scale != 1 else level)
            if skip.start:
                scores = scores + _cut(score, skip.start, scores.shape[-2], scores.shape[-1])
            else:  # no fc6 took anything away (GoogLeNet): the grown map is larger by what the pool rounded up
                scores = _cut(scores, 0, score.shape[-2], score.shape[-1]) + score
        stride = self.geometry.score_stride
        heatmap = _cut(scores, self._heatmap_start, -(-height // stride), -(-width // stride))
        grown: Tensor = self.get_submodule(self._grow[-1])(scores)
        return SegmentationOutput(_cut(grown, self._start, height, width), (), heatmap, features)

    def load_imagenet(self) -> None:
        """Start the trunk from ImageNet weights of VGG16; the scores stay at zero.

        Raises:
            UnsupportedError: The trunk is another one, of which no weights can be had by name.
        """
        if "conv5_3" not in self.backbone.channels:
            raise UnsupportedError(
                "ImageNet weights can be had of the trunk vgg16 only; torchvision's AlexNet and GoogLeNet are not the "
                "paper's, and serve form='modern'"
            )
        load_vgg16(self.backbone)

    def _add_skips(self, backbone: str, skips: Sequence[int], *, at_once: bool, learned: bool) -> Place:
        """Add the score layers of the skips, coarsest first; return the place of the summed scores."""
        taps = {
            int(place.stride): name
            for name, place in self.backbone.places.items()
            if "pool" in name and "norm" not in name and place.stride < 32
        }
        wanted = sorted(set(skips), reverse=True)
        for stride in wanted:
            if stride not in taps:
                known = ", ".join(map(str, sorted(taps, reverse=True)))
                raise UsageError(f"{backbone} has pools of stride {known} to skip from, got {stride}")
            if at_once and stride not in _POOL_SCALES:
                raise UsageError(f"at_once scales the pools of stride 16 and 8, got a skip of stride {stride}")
        place = self.backbone.places[self._deepest]
        previous = "upscore2"
        for stride in wanted:
            tap = taps[stride]
            level = self.backbone.places[tap]
            place = self._add_growth(previous, place, int(place.stride) // stride, level, learned=learned)
            scale = _POOL_SCALES[stride] if at_once else 1.0
            self._skips.append(_Skip(tap, scale, level.crop_onto(place)))
            name = _score_name(tap)
            self.add_module(name, nn.Conv2d(self.backbone.channels[tap], self.num_classes, 1))
            previous = f"up{name}"
        centre = (place.stride - 1) / 2  # of the first position of a grid that covers the image
        self._heatmap_start = max(0, round((centre - place.offset) / place.stride))
        return place

    def _add_growth(self, name: str, place: Place, stride: int, onto: Place, *, learned: bool) -> Place:
        kernel = bilinear_kernel_size(place, stride, onto)
        self.add_module(name, BilinearDeconv(self.num_classes, stride=stride, kernel_size=kernel, learned=learned))
        self._grow.append(name)
        return place.grow(kernel, stride=stride)


def _score_name(tap: str) -> str:
    return f"score_{tap.partition('/')[0]}"


def _cut(x: Tensor, start: int, height: int, width: int) -> Tensor:
    return x[..., start : start + height, start : start + width]
