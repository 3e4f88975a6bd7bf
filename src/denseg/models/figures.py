# SPDX-License-Identifier: Apache-2.0
"""The figures that the papers print about their networks, each beside what is measured here.

An entry says how to build the network that the figure is about, and how to measure it. Networks are built on torch's
``meta`` device: shapes without values, so that 250 million parameters cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from denseg.models.catalog import create_model
from denseg.models.complexity import count_parameters, describe
from denseg.models.interface import SegmentationModel

__all__ = ["FIGURES", "FigureCheck", "PaperFigure", "check_figures"]


@dataclass(frozen=True)
class PaperFigure:
    """A number that a paper or its released code fixes.

    Attributes:
        quantity: What it counts, in a few words.
        value: The number.
        source: Where it stands: table, section, file of the released code.
        options: Arguments of ``create_model``; ``num_classes`` is 21 unless it is among them.
        measure: Gives our number from the model, which has no values (``meta`` device).
        rounded_to: What the paper rounds to; a million for "134M". The numbers agree where both round to the same.
    """

    quantity: str
    value: float
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    measure: Callable[[SegmentationModel], float] = count_parameters
    rounded_to: float = 1


@dataclass(frozen=True)
class FigureCheck:
    """A figure of a paper beside ours.

    Attributes:
        quantity: What is counted.
        options: How the network is built.
        paper: The paper's number.
        ours: Ours.
        agrees: Whether they are equal, to the digits that the paper prints.
        source: Where the paper's stands.
    """

    quantity: str
    options: Mapping[str, Any]
    paper: float
    ours: float
    agrees: bool
    source: str

    def to_json(self) -> dict[str, Any]:
        """Give the check as JSON values."""
        return {
            "quantity": self.quantity,
            "options": dict(self.options),
            "paper": self.paper,
            "ours": self.ours,
            "agrees": self.agrees,
            "source": self.source,
        }


def check_figures(name: str, backbone: str | None = None) -> tuple[FigureCheck, ...]:
    """Measure every figure of a paper's network.

    Args:
        name: Catalog name.
        backbone: Leave out figures that are about another backbone; ``None``: all of them.

    Returns:
        The checks, in the table's order; empty where the paper prints none that can be measured without training.
    """
    checks = []
    for figure in FIGURES.get(name, ()):
        if backbone is not None and figure.options.get("backbone", backbone) != backbone:
            continue
        with torch.device("meta"):
            model = create_model(name, **({"num_classes": 21} | dict(figure.options)))
        ours = figure.measure(model.eval())
        agrees = round(ours / figure.rounded_to) == round(figure.value / figure.rounded_to)
        checks.append(FigureCheck(figure.quantity, figure.options, figure.value, ours, agrees, figure.source))
    return tuple(checks)


def trunk_parameters(model: SegmentationModel) -> float:
    """Count the parameters of the backbone alone."""
    return count_parameters(model.get_submodule("backbone"))


def head_parameters(model: SegmentationModel) -> float:
    """Count the parameters outside the backbone and the auxiliary classifier."""
    named = model.named_parameters()
    return sum(value.numel() for name, value in named if not name.startswith(("backbone.", "auxiliary.")))


def parameters_of(*parts: str) -> Callable[[SegmentationModel], float]:
    """Make a measure of the parameters of some modules together."""
    return lambda model: sum(count_parameters(model.get_submodule(part)) for part in parts)


def macs_of(*parts: str, side: int) -> Callable[[SegmentationModel], float]:
    """Make a measure of the multiply-adds of some modules together, for an image of a side."""

    def measure(model: SegmentationModel) -> float:
        rows = describe(model, (side, side)).layers
        return sum(row.macs for row in rows if f"{row.name}.".startswith(tuple(f"{part}." for part in parts)))

    return measure


def receptive_field(model: SegmentationModel) -> float:
    """Read the receptive field that the model works out from its layers."""
    return float(model.receptive_field)  # type: ignore[arg-type]


def context_field(model: SegmentationModel) -> float:
    """Read the receptive field of the context module, in positions of the heatmap."""
    return float(model.get_submodule("context").receptive_field)  # type: ignore[arg-type]


def total_stride(model: SegmentationModel) -> float:
    """Read the stride of the deepest map."""
    return model.geometry.total_stride


def scores_for(side: int) -> Callable[[SegmentationModel], float]:
    """Make a measure of the side of the scores for an image of a side."""
    return lambda model: _run(model, side).logits.shape[-1]


def heatmap_for(side: int) -> Callable[[SegmentationModel], float]:
    """Make a measure of the side of the heatmap for an image of a side."""
    return lambda model: _run(model, side).heatmap.shape[-1]


def macs_for(side: int) -> Callable[[SegmentationModel], float]:
    """Make a measure of the multiply-adds for an image of a side."""
    return lambda model: describe(model, (side, side)).macs


def _run(model: SegmentationModel, side: int) -> Any:
    with torch.no_grad():
        return model(torch.empty(1, model.in_channels, side, side, device="meta"))


def _fcn(backbone: str, field_of_view: int, millions: int, trunk: int, whole: int) -> tuple[PaperFigure, ...]:
    options = {"form": "paper", "backbone": backbone}
    table = "Long et al. 2015, Table 1"
    return (
        PaperFigure("parameters, in millions", millions * 1e6, table, options, rounded_to=1e6),
        PaperFigure("parameters of the trunk", trunk, "released net's layers", options, trunk_parameters),
        PaperFigure("parameters with 21 scores", whole, "released net's layers", options),
        PaperFigure("receptive field", field_of_view, table, options, receptive_field),
        PaperFigure("stride", 32, table, options, total_stride),
    )


_PAPER = {"form": "paper"}
_PAPER_UNET = {"form": "paper", "in_channels": 1, "num_classes": 2}
_FCN_VGG16 = {"form": "paper", "backbone": "vgg16"}

_CONTEXT = MappingProxyType({"backbone": "resnet101", "num_classes": 59})  # PASCAL Context
_VOC = MappingProxyType({"backbone": "resnet101", "num_classes": 21})
_LAYERS = "released code's layers"


def _head(millions: float) -> PaperFigure:
    """The head at 59 classes, counted from the layers of the released code."""
    return PaperFigure("parameters of the head, in 10,000", millions * 1e6, _LAYERS, _CONTEXT, head_parameters, 1e4)


_XCEPTION = {name: {"backbone": name, "output_stride": 16} for name in ("xception41", "xception65", "xception71")}
_MOBILENET = {"backbone": "mobilenetv2_100", "dilations": (), "decoder": False}
_DEEP_PSPNET = {"backbone": "resnet101", "stem": "deep", "num_classes": 150}
_ZOO = "TensorFlow DeepLab model zoo"

FIGURES: Mapping[str, tuple[PaperFigure, ...]] = MappingProxyType(
    {
        "ccnet": (
            _head(23.95),
            PaperFigure("parameters of the attention", 328_321, _LAYERS, _CONTEXT, parameters_of("attention")),
        ),
        "danet": (
            _head(24.02),
            PaperFigure("parameters of position attention", 328_321, _LAYERS, _CONTEXT, parameters_of("position.1")),
            PaperFigure("parameters of channel attention", 1, _LAYERS, _CONTEXT, parameters_of("channel.1")),
        ),
        "deconvnet": (
            PaperFigure("parameters, in millions", 252e6, "Noh et al. 2015, Section 4", _PAPER, rounded_to=1e6),
            PaperFigure("parameters", 251_772_245 + 33_408, "released net's layers", _PAPER),
            PaperFigure("output for 224x224", 224, "Noh et al. 2015, Figure 2", _PAPER, scores_for(224)),
        ),
        "deeplab_v1": (
            PaperFigure("parameters", 20_505_429, "released net's layers (vgg16_20M)", {"backbone": "vgg16"}),
            PaperFigure("heatmap for 321x321", 41, "released net", {"backbone": "vgg16"}, heatmap_for(321)),
        ),
        "deeplab_v2": (
            PaperFigure("parameters", 44_048_532, "released net's layers", {"backbone": "resnet101"}),
            PaperFigure("parameters", 37_877_652, "released net's layers", {"backbone": "vgg16"}),
            PaperFigure("heatmap for 321x321", 41, "released net", {"backbone": "resnet101"}, heatmap_for(321)),
        ),
        "deeplab_v3": (
            PaperFigure("heatmap for 513x513", 33, "Chen et al. 2017", {"output_stride": 16}, heatmap_for(513)),
            PaperFigure("heatmap for 513x513", 65, "Chen et al. 2017", {"output_stride": 8}, heatmap_for(513)),
        ),
        "deeplab_v3_plus": (
            PaperFigure(
                "parameters of the trunk", 24_920_560, "released net", _XCEPTION["xception41"], trunk_parameters
            ),
            PaperFigure(
                "parameters of the trunk", 37_867_312, "released net", _XCEPTION["xception65"], trunk_parameters
            ),
            PaperFigure(
                "parameters of the trunk", 40_289_736, "released net", _XCEPTION["xception71"], trunk_parameters
            ),
            PaperFigure("parameters", 41_055_413, "released net's layers", _XCEPTION["xception65"]),
            PaperFigure(
                "multiply-adds at 513x513", 54.17e9, _ZOO, _XCEPTION["xception65"], macs_for(513), rounded_to=1e9
            ),
            PaperFigure("parameters", 2.11e6, "released net's layers", _MOBILENET, rounded_to=1e4),
            PaperFigure("multiply-adds at 513x513", 2.75e9, _ZOO, _MOBILENET, macs_for(513), rounded_to=5e7),
            PaperFigure("heatmap for 513x513", 129, "released net", _XCEPTION["xception65"], heatmap_for(513)),
        ),
        "dilated_context": (
            PaperFigure("parameters, basic", 134_346_581 + 28_392, "Yu and Koltun 2016, Table 1", _PAPER),
            PaperFigure(
                "parameters, large", 134_346_581 + 6_803_139, "Yu and Koltun 2016, Table 1", {**_PAPER, "size": "large"}
            ),
            PaperFigure("receptive field of the module", 67, "Yu and Koltun 2016, Table 1", _PAPER, context_field),
            PaperFigure("heatmap for 900x900", 66, "released net", _PAPER, heatmap_for(900)),
        ),
        "dilated_frontend": (
            PaperFigure("parameters", 134_346_581, "released net's layers", _PAPER),
            PaperFigure("heatmap for 900x900", 66, "released net", _PAPER, heatmap_for(900)),
            PaperFigure("heatmap for 1396x1396", 128, "released net, Cityscapes", _PAPER, heatmap_for(1396)),
            PaperFigure("heatmap for 628x628", 32, "released net, training", _PAPER, heatmap_for(628)),
            PaperFigure("receptive field", 380, "released net's layers", _PAPER, receptive_field),
        ),
        "emanet": (
            _head(11.16),
            PaperFigure(
                "parameters of reduction and unit, in 100,000",
                10.0e6,
                "Li et al. 2019, repository",
                _VOC,
                parameters_of("reduction", "attention"),
                1e5,
            ),
            PaperFigure(
                "their multiply-adds at 513x513, in 100 million",
                43.1e9,
                "Li et al. 2019, repository",
                _VOC,
                macs_of("reduction", "attention", side=513),
                1e8,
            ),
        ),
        "fcn32s": (
            *_fcn("vgg16", 404, 134, 134_260_544, 134_346_581),
            *_fcn("alexnet", 355, 57, 56_868_224, 56_954_261),
            # Table 1 prints 907, which counts the average pool that Section 4.1 says is discarded: 715 without it.
            *_fcn("googlenet", 715, 6, 5_973_552, 5_995_077),
            PaperFigure("output for 500x500", 500, "released net", _FCN_VGG16, scores_for(500)),
        ),
        "fcn16s": (
            PaperFigure("parameters", 134_346_581 + 10_773, "released net's layers", _FCN_VGG16),
            PaperFigure("output for 500x500", 500, "released net", _FCN_VGG16, scores_for(500)),
        ),
        "fcn8s": (
            PaperFigure("parameters", 134_346_581 + 10_773 + 5_397, "released net's layers", _FCN_VGG16),
            PaperFigure("receptive field", 404, "Long et al. 2015, Table 1", _FCN_VGG16, receptive_field),
            PaperFigure("output for 500x500", 500, "released net", _FCN_VGG16, scores_for(500)),
        ),
        "hdnet": (
            _head(23.96),
            PaperFigure("parameters of the attention", 328_449, _LAYERS, _CONTEXT, parameters_of("spatial.1")),
        ),
        "parsenet": (
            PaperFigure("stride", 8, "Liu et al. 2015, on DeepLab-LargeFOV", {"backbone": "vgg16"}, total_stride),
        ),
        "pspnet": (
            PaperFigure("heatmap for 473x473", 60, "released net, ADE20K", _DEEP_PSPNET, heatmap_for(473)),
            PaperFigure("heatmap for 713x713", 90, "released net, Cityscapes", _DEEP_PSPNET, heatmap_for(713)),
            PaperFigure("stride", 8, "released net", _DEEP_PSPNET, total_stride),
            _head(23.10),
        ),
        "unet": (
            PaperFigure("parameters", 31_030_658, "Ronneberger et al. 2015, Figure 1", _PAPER_UNET),
            PaperFigure("output for 572x572", 388, "Ronneberger et al. 2015, Figure 1", _PAPER_UNET, scores_for(572)),
            PaperFigure(
                "parameters as released", 31_100_354, "phseg_v5-train.prototxt", {**_PAPER_UNET, "released": True}
            ),
        ),
    }
)
"""By catalog name. A test measures every entry."""
