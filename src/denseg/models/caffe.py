# SPDX-License-Identifier: Apache-2.0
"""Weights laid out as the released Caffe nets hold them, loaded by name into the paper forms.

A converter gives ``{"conv1_1.weight": …, "conv1_1.bias": …}``: Caffe's layer names, blobs by what they are. The first
convolution's input channels turn from BGR to RGB. Those nets take values of 0..255 less their mean, neither divided:
the checkpoint's normalisation has to say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from denseg.errors import CheckpointError, UnsupportedError
from denseg.layers.bilinear_deconv import bilinear_kernel
from denseg.models.checkpoint import LoadReport
from denseg.models.deconvnet import DeconvNet
from denseg.models.dilated_context import DilatedContextNet, PaperDilatedContextNet
from denseg.models.dilated_frontend import DilatedFrontend, PaperDilatedFrontend
from denseg.models.fcn_paper import PaperFCN
from denseg.models.interface import SegmentationModel
from denseg.models.trunk import Trunk
from denseg.models.unet_paper import PaperUNet

__all__ = ["caffe_names", "load_caffe"]


def load_caffe(model: SegmentationModel, tensors: Mapping[str, Tensor], *, bgr: bool = True) -> LoadReport:
    """Give a model the weights of its released Caffe net.

    Args:
        model: FCN, U-Net (``released=True``), the dilated networks or DeconvNet, in a form with the released layers;
            changed in place, or not at all when an error is raised.
        tensors: By Caffe name, ``LAYER.weight`` and ``LAYER.bias`` (``LAYER.running_mean`` and ``LAYER.running_var``
            for batch norm); fully connected layers may be flat, ``(out, in)``. Fixed bilinear kernels may be there.
        bgr: Whether the first convolution expects blue first.

    Returns:
        What was loaded; names are ours where they are known, else the file's.

    Raises:
        CheckpointError: A layer is missing or does not fit, or a kernel that is fixed here was learned there.
        UnsupportedError: No Caffe net of this model was released.
    """
    names = caffe_names(model)
    own = model.state_dict()
    chosen: dict[str, Tensor] = {}
    unexpected = []
    for name, tensor in tensors.items():
        layer, _, blob = name.rpartition(".")
        ours = names.get(layer)
        full = f"{ours}.{blob}"
        if ours is not None and full in own:
            if tensor.numel() != own[full].numel():
                raise CheckpointError(
                    f"{name} has the shape {tuple(tensor.shape)}, {full} needs {tuple(own[full].shape)}; "
                    "build the model with the classes and options of the net"
                )
            chosen[full] = tensor.reshape(own[full].shape).to(own[full].dtype)
        elif layer.startswith("upscore") or layer == "ctx_upsample":
            _check_bilinear(name, tensor)
        else:
            unexpected.append(name)
    missing = sorted(key for key in own if key not in chosen and not key.endswith("num_batches_tracked"))
    if missing:
        raise CheckpointError(f"the net lacks {len(missing)} of the model's tensors, for example {missing[0]}")
    first = next(f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    if bgr and own[first].shape[1] == 3:
        chosen[first] = chosen[first].flip(1)
    model.load_state_dict(chosen, strict=False)
    return LoadReport(tuple(chosen), (), (), tuple(unexpected), ())


def caffe_names(model: SegmentationModel) -> Mapping[str, str]:
    """Give our name of every layer of the released net.

    Args:
        model: A model of which one was released.

    Returns:
        Ours by Caffe's.

    Raises:
        UnsupportedError: There is none.
    """
    if isinstance(model, PaperFCN):
        names = _trunk_names(model.backbone)
        names |= {name: name for name, _ in model.named_children() if name != "backbone"}
    elif isinstance(model, (DilatedFrontend, PaperDilatedFrontend, DilatedContextNet, PaperDilatedContextNet)):
        if not isinstance(model.backbone, Trunk):
            raise UnsupportedError("the released dilated networks stand on VGG16; leave the backbone out")
        names = _trunk_names(model.backbone) | {"final": "score", "fc-final": "score"}
        if isinstance(model, (DilatedContextNet, PaperDilatedContextNet)):
            count = len(model.context.convs)
            stack = ["ctx_conv1_1", "ctx_conv1_2", *(f"ctx_conv{n}_1" for n in range(2, count - 1)), "ctx_fc1"]
            names |= {name: f"context.convs.{index}" for index, name in enumerate(stack)}
            names["ctx_final"] = "context.last"
    elif isinstance(model, DeconvNet):
        names = _deconvnet_names(model)
    elif isinstance(model, PaperUNet) and model.released:
        names = _unet_names()
    else:
        raise UnsupportedError(
            f"no Caffe net was released in the form of this {type(model).__name__}; FCN, U-Net with released=True, the "
            "dilated front end, its context models and DeconvNet were"
        )
    return MappingProxyType(names)


def _trunk_names(trunk: Trunk) -> dict[str, str]:
    layers = [name for name, module in trunk.named_modules() if isinstance(module, nn.Conv2d)]
    return {name.replace(".", "/"): f"backbone.{name}" for name in layers}


def _deconvnet_names(model: DeconvNet) -> dict[str, str]:
    names = {"seg-score-voc": "classifier", "seg-score": "classifier"}
    for part in ("backbone", "decoder"):
        for name, module in model.get_submodule(part).named_children():
            if isinstance(module, nn.BatchNorm2d):
                layer = name.removeprefix("norm_")
                plain = layer.removeprefix("de").removeprefix("conv")
                theirs = {"fc6": "bnfc6", "fc7": "bnfc7", "fc6_deconv": "fc6-deconv-bn"}.get(
                    layer, f"{'debn' if layer.startswith('de') else 'bn'}{plain}"
                )
            else:
                theirs = name.replace("fc6_deconv", "fc6-deconv")
            names[theirs] = f"{part}.{name}"
    return names


def _unet_names() -> dict[str, str]:
    names = {"conv_u0d-score": "classifier"}
    for level in range(5):
        names[f"conv_d{level}a-b"] = f"contracting.{level}.0"
        names[f"conv_d{level}b-c"] = f"contracting.{level}.2"
    for step in range(4):
        level = 3 - step
        below = "d4c" if level == 3 else f"u{level + 1}d"
        names[f"upconv_{below}_u{level}a"] = f"up.{step}"
        names[f"conv_u{level}b-c"] = f"expanding.{step}.0"
        names[f"conv_u{level}c-d"] = f"expanding.{step}.2"
    return names


def _check_bilinear(name: str, tensor: Tensor) -> None:
    """Let a fixed kernel go that computes what ours does."""
    size = tensor.shape[-1]
    expected = torch.zeros_like(tensor)
    if tensor.shape[1] == 1:  # one group per class
        expected[:] = bilinear_kernel(size).to(tensor)
    else:
        expected[range(tensor.shape[0]), range(tensor.shape[0])] = bilinear_kernel(size).to(tensor)
    if not torch.allclose(tensor, expected, atol=1e-4):
        raise CheckpointError(f"{name} was learned; build the model with upsampling='all' to hold it")
