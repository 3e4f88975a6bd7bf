# SPDX-License-Identifier: Apache-2.0
"""All models, by name, and from a name and options to a model."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from denseg.backbones import create_backbone
from denseg.errors import UnknownNameError, UnsupportedError, UsageError, nearest_name
from denseg.layers import use_asymmetric_convs
from denseg.models.acnet import ACNet
from denseg.models.ccnet import CCNet
from denseg.models.context import Context
from denseg.models.danet import DANet
from denseg.models.deconvnet import DeconvNet
from denseg.models.deeplab_v1 import DeepLabV1
from denseg.models.deeplab_v2 import DeepLabV2
from denseg.models.deeplab_v3 import DeepLabV3
from denseg.models.deeplab_v3_plus import DeepLabV3Plus
from denseg.models.dilated_context import DilatedContextNet, PaperDilatedContextNet
from denseg.models.dilated_frontend import DilatedFrontend, PaperDilatedFrontend
from denseg.models.emanet import EMANet
from denseg.models.ensemble import Ensemble
from denseg.models.fcn import FCN
from denseg.models.fcn_paper import PaperFCN
from denseg.models.fcn_skips import SkipFCN
from denseg.models.hdnet import HDNet
from denseg.models.interface import SegmentationModel
from denseg.models.non_local_net import NonLocalNet
from denseg.models.parsenet import ParseNet
from denseg.models.pspnet import PSPNet
from denseg.models.reduced import ReducedInput
from denseg.models.unet import UNet
from denseg.models.unet_paper import PaperUNet
from denseg.types import ModelSpec

__all__ = ["MODELS", "ModelEntry", "create_model", "split_parameters"]


@runtime_checkable
class _Transplantable(Protocol):
    def load_imagenet(self) -> None: ...


@dataclass(frozen=True)
class ModelEntry:
    """How a model of the catalog is built.

    Attributes:
        modern: Class of the modern form; options are the keyword arguments of its constructor.
        paper: Class of the exact paper form, where there is one.
        backbone: Backbone that the modern form takes unless another is named; ``None``: none.
        output_stride: Output stride of the backbone unless another is given; ``None``: the backbone's own.
        paper_backbone: Trunk of the paper form unless another of the paper's is named; its class takes the name.
            ``None``: the paper has one trunk.
        defaults: Options that have another default under this name, in both forms.
        paper_defaults: Likewise, in the paper form.
        backbone_defaults: Options of the backbone that have another default in this model, see ``create_backbone``.
    """

    modern: type[SegmentationModel]
    paper: type[SegmentationModel] | None = None
    backbone: str | None = None
    output_stride: int | None = None
    paper_backbone: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    paper_defaults: Mapping[str, Any] = field(default_factory=dict)
    backbone_defaults: Mapping[str, Any] = field(default_factory=dict)


# The trunks of DeepLab v1 and v2: a stage has one rate, VGG's pools have 3x3 windows.
_LARGE_FOV: Mapping[str, Any] = MappingProxyType({"dilation_rule": "uniform", "pool_size": 3})

MODELS: Mapping[str, ModelEntry] = MappingProxyType(
    {
        "acnet": ModelEntry(ACNet, backbone="resnet50", output_stride=8),
        "ccnet": ModelEntry(CCNet, backbone="resnet50", output_stride=8),
        "context": ModelEntry(Context, backbone="resnet50", output_stride=8),
        "danet": ModelEntry(DANet, backbone="resnet50", output_stride=8),
        "deeplab_v1": ModelEntry(DeepLabV1, backbone="vgg16", output_stride=8, backbone_defaults=_LARGE_FOV),
        "deeplab_v2": ModelEntry(DeepLabV2, backbone="resnet101", output_stride=8, backbone_defaults=_LARGE_FOV),
        "deeplab_v3": ModelEntry(DeepLabV3, backbone="resnet50", output_stride=16),
        "deeplab_v3_plus": ModelEntry(DeepLabV3Plus, backbone="resnet50", output_stride=16),
        "deconvnet": ModelEntry(DeconvNet, paper=DeconvNet, paper_defaults={"bottleneck": "valid"}),
        "dilated_context": ModelEntry(DilatedContextNet, paper=PaperDilatedContextNet, output_stride=8),
        "dilated_frontend": ModelEntry(DilatedFrontend, paper=PaperDilatedFrontend, output_stride=8),
        "emanet": ModelEntry(EMANet, backbone="resnet50", output_stride=8),
        "fcn": ModelEntry(FCN, backbone="resnet50", output_stride=8),
        "fcn16s": ModelEntry(
            SkipFCN, paper=PaperFCN, backbone="vgg16", paper_backbone="vgg16", defaults={"skips": (16,)}
        ),
        "fcn32s": ModelEntry(SkipFCN, paper=PaperFCN, backbone="vgg16", paper_backbone="vgg16"),
        "fcn8s": ModelEntry(
            SkipFCN, paper=PaperFCN, backbone="vgg16", paper_backbone="vgg16", defaults={"skips": (16, 8)}
        ),
        "hdnet": ModelEntry(HDNet, backbone="resnet50", output_stride=8),
        "nonlocal": ModelEntry(NonLocalNet, backbone="resnet50", output_stride=8),
        "parsenet": ModelEntry(ParseNet, backbone="vgg16", output_stride=8, backbone_defaults=_LARGE_FOV),
        "pspnet": ModelEntry(
            PSPNet, backbone="resnet50", output_stride=8, backbone_defaults={"dilation_rule": "uniform"}
        ),
        "unet": ModelEntry(UNet, paper=PaperUNet),
    }
)

_COMMON = {"backbone", "in_channels", "name", "num_classes", "output_stride", "pretrained"}
_BACKBONE_OPTIONS = {
    key: value.default for key, value in inspect.signature(create_backbone).parameters.items() if key not in _COMMON
}


def create_model(
    name: str,
    *,
    num_classes: int,
    backbone: str | None = None,
    in_channels: int = 3,
    output_stride: int | None = None,
    pretrained: bool = False,
    **options: Any,
) -> SegmentationModel:
    """Build a model of the catalog.

    Args:
        name: Catalog name, for example ``unet``.
        num_classes: Classes scored per pixel.
        backbone: Name of the backbone; the model's own default if ``None``.
        in_channels: Image bands.
        output_stride: Input pixels per position of the backbone's deepest level; the model's default if ``None``.
        pretrained: Start the backbone from ImageNet weights.
        **options: ``form`` (``modern`` or ``paper``), ``asymmetric`` (True: train every square convolution with a row
            and a column beside it, as ``acnet`` does), what ``create_backbone`` takes by keyword (``dilation_rule``,
            ``multi_grid``, …), ``reduction`` (2, 3 or 4: work on blocks of so many pixels a side), ``members`` (so
            many networks that vote), and what the model's constructor takes by keyword.

    Returns:
        The model, with ``spec`` and ``geometry``.

    Raises:
        UnknownNameError: There is no such model or backbone.
        UsageError: The model has no such option, or a value is out of range.
        UnsupportedError: The model has no paper form, or the backbone cannot do what the model needs.
    """
    if name not in MODELS:
        raise UnknownNameError("model", name, MODELS)
    if options.get("members") is not None or options.get("reduction") not in {None, 1}:
        common = {"num_classes": num_classes, "backbone": backbone, "in_channels": in_channels}
        return _wrapped(name, {**options, **common, "output_stride": output_stride, "pretrained": pretrained})
    options = {key: value for key, value in options.items() if key not in {"members", "reduction"}}
    for what, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value < 1:
            raise UsageError(f"{what} must be at least 1, got {value}")
    entry = MODELS[name]
    form = options.pop("form", "modern")
    asymmetric = _switch("asymmetric", options.pop("asymmetric", None))
    model_class = _model_class(name, entry, form)
    network_options = {key: options.pop(key) for key in _BACKBONE_OPTIONS if key in options}
    arguments: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels, "form": form}
    resolved = _resolve_options(f"model {name!r} ({form} form)", model_class, _given(entry, form, options))
    takes_backbone = "backbone" in inspect.signature(model_class).parameters
    if backbone is not None and not takes_backbone:
        raise UsageError(f"model {name!r} ({form} form) has a fixed trunk; leave backbone out")
    if form == "paper" and takes_backbone:
        arguments["backbone"] = resolved["backbone"] = backbone or entry.paper_backbone
        backbone = None
    elif form == "modern":
        backbone = backbone or entry.backbone
    if backbone is None:
        if output_stride is not None or (pretrained and not hasattr(model_class, "load_imagenet")) or network_options:
            asked = next(iter(network_options), "pretrained weights" if output_stride is None else "output_stride")
            raise UsageError(
                f"model {name!r} is built without a backbone here, so it takes no {asked}; name a backbone"
            )
        model = _with_own_trunk(model_class(num_classes, in_channels=in_channels, **resolved), pretrained)
    else:
        output_stride = output_stride or entry.output_stride
        given = {**entry.backbone_defaults, **network_options}
        known = _resolve_options(f"backbone {backbone!r}", create_backbone, given)
        chosen = {key: known[key] for key in given}
        network = create_backbone(
            backbone, in_channels=in_channels, output_stride=output_stride, pretrained=pretrained, **chosen
        )
        network.pretrained = pretrained
        model = model_class(num_classes, backbone=network, **resolved)
        arguments |= {"backbone": backbone, "output_stride": output_stride}
        arguments |= {key: _json(value) for key, value in chosen.items()}
    if asymmetric:
        arguments["asymmetric"] = True
        size = (model.geometry.min_size,) * 2
        images = next(model.parameters()).new_zeros(1, in_channels, *size)
        use_asymmetric_convs(model, images, keep=lambda name: pretrained and name.startswith("backbone."))
    model.spec = ModelSpec(name, arguments | {key: _json(value) for key, value in resolved.items()})
    return model


_BACKBONE = re.compile(r"(members\.\d+\.)?(network\.)?backbone\.")  # inside Ensemble, inside ReducedInput


def _wrapped(name: str, arguments: dict[str, Any]) -> SegmentationModel:
    """Build networks inside what makes them vote, or work on a smaller picture."""
    members, reduction = arguments.pop("members", None), arguments.get("reduction")
    if members is not None:
        if not isinstance(members, int) or isinstance(members, bool) or members < 2:
            raise UsageError(f"members is a number of networks, at least 2; got {members!r}")
        networks = [create_model(name, **arguments) for _ in range(members)]
        model: SegmentationModel = Ensemble(networks)
        extra: dict[str, Any] = {"members": members}
    else:
        networks = [create_model(name, **{**arguments, "reduction": None})]
        model = ReducedInput(networks[0], reduction=reduction)  # type: ignore[arg-type]
        extra = {"reduction": reduction}
    model.spec = ModelSpec(name, {**networks[0].spec.arguments, **extra})
    return model


def split_parameters(model: SegmentationModel) -> dict[str, list[str]]:
    """Tell which parameters belong to the backbone and which to the head, for learning rates by part.

    Args:
        model: The model.

    Returns:
        ``{"backbone": names, "head": names}``; every parameter is in exactly one list.
    """
    names = [name for name, _ in model.named_parameters()]
    return {
        "backbone": [name for name in names if _BACKBONE.match(name)],
        "head": [name for name in names if not _BACKBONE.match(name)],
    }


def _switch(name: str, value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise UsageError(f"{name} is true or false, got {value!r}")


def _model_class(name: str, entry: ModelEntry, form: str) -> type[SegmentationModel]:
    if form not in {"modern", "paper"}:
        raise UsageError(f"form is 'modern' or 'paper', got {form!r}")
    if form == "modern":
        return entry.modern
    if entry.paper is None:
        raise UnsupportedError(f"model {name!r} has no paper form; leave form out, or use form='modern'")
    return entry.paper


def _with_own_trunk(model: SegmentationModel, pretrained: bool) -> SegmentationModel:
    if pretrained and isinstance(model, _Transplantable):
        model.load_imagenet()
    return model


def _given(entry: ModelEntry, form: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Lay options over the entry's own defaults; ``None`` means the default."""
    own = dict(entry.defaults) | (dict(entry.paper_defaults) if form == "paper" else {})
    return own | {key: value for key, value in options.items() if value is not None or key not in own}


def _resolve_options(what: str, make: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Check options against what builds it and add the defaults; an option given as ``None`` means its default."""
    known = {key: value for key, value in inspect.signature(make).parameters.items() if key not in _COMMON}
    resolved = {key: parameter.default for key, parameter in known.items()}
    for key, value in options.items():
        if key not in known:
            near = nearest_name(key, known)
            hint = f" Did you mean {near!r}?" if near else ""
            listed = ", ".join(sorted(known)) or "none"
            raise UsageError(f"{what} has no option {key!r}.{hint} Its options: {listed}")
        if value is not None:
            expected = str(known[key].annotation)
            if not any(_fits(value, kind) for kind in expected.split(" | ")):
                raise UsageError(f"{what} takes {expected} for {key}, got {value!r}")
            resolved[key] = value
    missing = [key for key, value in resolved.items() if value is inspect.Parameter.empty]
    if missing:
        raise UsageError(f"{what} needs the option {', '.join(missing)}")
    return resolved


def _fits(value: Any, kind: str) -> bool:
    """Whether a value, as YAML or JSON gives it, is what an annotation of a constructor says."""
    if kind.startswith("Sequence["):
        inner = kind.removeprefix("Sequence[").removesuffix("]")
        return isinstance(value, (list, tuple)) and all(_fits(item, inner) for item in value)
    if kind == "bool":
        return isinstance(value, bool)
    if kind in {"int", "float"}:
        return isinstance(value, int if kind == "int" else (int, float)) and not isinstance(value, bool)
    return isinstance(value, str) if kind == "str" else kind != "None"


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
