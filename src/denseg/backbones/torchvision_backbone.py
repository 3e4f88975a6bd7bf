# SPDX-License-Identifier: Apache-2.0
"""torchvision's classifiers as backbones: AlexNet, GoogLeNet and others that timm has not.

A classifier is traced to a graph. Its levels are the last maps of each stride through which everything flows, so that a
level is never one branch of several. Pools that are function calls become modules, which can be dilated.

Shape letters: B batch, C channels, h and w feature height and width.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from denseg.backbones.network import CONVOLUTIONAL, NetworkBackbone, build_backbone
from denseg.errors import CheckpointError, UnsupportedError
from denseg.types import FeatureSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["create_torchvision_backbone", "torchvision_names"]

_SIDE = 256
_HEADS = {"classifier", "fc", "head", "heads"}
_POOLS = {F.max_pool2d: nn.MaxPool2d, torch.max_pool2d: nn.MaxPool2d, F.avg_pool2d: nn.AvgPool2d}


@functools.cache
def torchvision_names() -> tuple[str, ...]:
    """List torchvision's classifiers.

    Returns:
        The names, sorted.
    """
    import torchvision  # a second to import

    return tuple(sorted(torchvision.models.list_models(module=torchvision.models)))


def create_torchvision_backbone(
    name: str, *, in_channels: int, pretrained: bool, prepare: Callable[[nn.Module], None]
) -> NetworkBackbone:
    """Build a torchvision classifier as a backbone, at its own output stride.

    Args:
        name: torchvision's name.
        in_channels: Image bands.
        pretrained: Start from ImageNet weights.
        prepare: Changes the network before anything is found out about it.

    Returns:
        The backbone.

    Raises:
        UnsupportedError: The network has no feature pyramid.
    """
    classifier = _create(name, pretrained)
    if in_channels != 3:
        _change_bands(classifier, in_channels)
    pyramid = _cut(classifier, in_channels)
    strides = [] if pyramid is None else [spec.stride for spec in pyramid[1]]
    if pyramid is None or not strides or strides[0] > 4 or strides[-1] < 8:
        raise UnsupportedError(
            f"backbone {name!r} has no feature pyramid from stride 4 or finer down to 8 or coarser; take for example "
            f"{CONVOLUTIONAL}"
        )
    network, specs = pyramid
    prepare(network)
    backbone = build_backbone(network, name=name, in_channels=in_channels, specs=specs, made_for=224)
    if backbone is None:
        raise UnsupportedError(
            f"backbone {name!r} does not take images of any size; take one that does, for example {CONVOLUTIONAL}"
        )
    return backbone


def _create(name: str, pretrained: bool) -> nn.Module:
    from torchvision.models import get_model

    options = {"init_weights": True, "aux_logits": False} if name in {"googlenet", "inception_v3"} else {}
    if not pretrained:
        network: nn.Module = get_model(name, weights=None, **options)
        return network
    try:
        return get_model(name, weights="DEFAULT")  # type: ignore[no-any-return]
    except Exception as error:  # whatever the download raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise CheckpointError(
            f"cannot load the ImageNet weights of backbone {name!r}: {reason}. Connect to the internet for the first "
            "use, or point TORCH_HOME at a folder that holds them, or start without them (--init none, "
            "pretrained=False)."
        ) from error


def _change_bands(network: nn.Module, in_channels: int) -> None:
    """Give the first convolution as many bands as the images have; its weights are repeated, their sum stays."""
    from timm.models import adapt_input_conv

    name, first = next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    parent = network.get_submodule(name.rpartition(".")[0])
    weight: Tensor = adapt_input_conv(in_channels, first.weight.detach())
    first.in_channels = in_channels
    first.weight = nn.Parameter(weight)
    setattr(parent, name.rpartition(".")[2], first)
    if hasattr(network, "transform_input"):
        vars(network)["transform_input"] = False  # it is written for three bands


class _Shapes(fx.Interpreter):
    """Runs a graph and keeps every map's channels and height."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[fx.Node, tuple[int, int]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.ndim == 4:
            self.found[n] = (result.shape[1], result.shape[2])
        return result


@torch.no_grad()
def _cut(classifier: nn.Module, in_channels: int) -> tuple[nn.Module, tuple[FeatureSpec, ...]] | None:
    """Trace a classifier and let it give its levels; ``None`` where it cannot be traced."""
    classifier.eval()
    try:
        traced = fx.symbolic_trace(classifier)
        shapes = _Shapes(traced)
        shapes.run(torch.zeros(1, in_channels, _SIDE, _SIDE))
    except (AssertionError, TypeError, RuntimeError, ValueError, fx.proxy.TraceError):
        return None
    levels: dict[int, fx.Node] = {}
    for node in _bottlenecks(traced.graph):
        if _begins_head(traced, node):
            break
        height = shapes.found.get(node, (0, 0))[1]
        if height > 1 and node.op != "placeholder":
            levels[1 << round(_SIDE / height - 0.25).bit_length() - 1] = node
    graph = traced.graph
    (old,) = (node for node in graph.nodes if node.op == "output")
    strides = sorted(stride for stride in levels if stride <= 32)
    with graph.inserting_before(old):
        graph.output(tuple(levels[stride] for stride in strides))
    graph.erase_node(old)
    graph.eliminate_dead_code()
    _make_modules(traced)
    traced.delete_all_unused_submodules()
    traced.recompile()
    traced.train()
    return traced, tuple(FeatureSpec(shapes.found[levels[stride]][0], stride) for stride in strides)


def _begins_head(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether classification begins at a node: a named head, or a pool to a fixed size."""
    if node.op != "call_module":
        return node.target in {F.adaptive_avg_pool2d, torch.flatten}
    target = str(node.target)
    return target.partition(".")[0] in _HEADS or isinstance(traced.get_submodule(target), nn.AdaptiveAvgPool2d)


def _bottlenecks(graph: fx.Graph) -> Sequence[fx.Node]:
    """Find the nodes through which everything flows: after them nothing older is read."""
    nodes = list(graph.nodes)
    place = {node: index for index, node in enumerate(nodes)}
    last_use = {node: max((place[user] for user in node.users), default=-1) for node in nodes}
    found, reach = [], 0
    for index, node in enumerate(nodes[:-1]):
        if reach <= index:
            found.append(node)
        reach = max(reach, last_use[node])
    return found


def _make_modules(traced: fx.GraphModule) -> None:
    """Replace pools that are function calls by modules."""
    for node in list(traced.graph.nodes):
        if node.op != "call_function" or node.target not in _POOLS:
            continue
        name = f"pool_{node.name}"
        names = ("kernel_size", "stride", "padding")
        options = dict(zip(names, node.args[1:], strict=False)) | {
            key: value for key, value in node.kwargs.items() if key in (*names, "ceil_mode", "count_include_pad")
        }
        traced.add_submodule(name, _POOLS[node.target](**options))
        with traced.graph.inserting_before(node):
            module = traced.graph.call_module(name, (node.args[0],))
        node.replace_all_uses_with(module)
        traced.graph.erase_node(node)
