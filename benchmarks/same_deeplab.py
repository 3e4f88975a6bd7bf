# SPDX-License-Identifier: Apache-2.0
"""One DeepLabV3+ in two programs: segmentation_models_pytorch's network, and ours with its layout and its weights.

Both give the same scores, to 1e-4, which is checked before the clock starts. Else as in ``against_smp``: the peer runs
as its users run it, denseg as its commands run it, each in a process of its own. The bfloat16 training step is timed
against the peer's float32 step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import Case
from benchmarks.isolated import Isolated
from denseg.config import TrainConfig
from denseg.layers import fold_batch_norms
from denseg.losses import CompositeLoss
from denseg.models import create_model
from denseg.training.memory import keep_freed_memory
from denseg.training.optimizer import create_optimizer

__all__ = ["PEER", "cases", "networks"]

PEER = f"segmentation_models_pytorch {smp.__version__}"
CLASSES = 21
TRAINING_SHAPE = (2, 3, 256, 256)
INFERENCE_SHAPE = (1, 3, 512, 512)


def cases() -> Iterator[Case]:
    """Give the cases: inference, a training step, a training step under autocast.

    Yields:
        The cases; a case's processes live until the next one is asked for.
    """
    note = "the same weights, the same scores to 1e-4"
    with Isolated(_inference, True) as ours, Isolated(_inference, False) as peer:
        yield Case("DeepLabV3+ / ResNet-50, inference, 512x512", ours, peer, 0.75, note)
    with Isolated(_training_step, "float32", True) as ours, Isolated(_training_step, "float32", False) as peer:
        yield Case("DeepLabV3+ / ResNet-50, training step, 2 x 256x256", ours, peer, 0.9, note)
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        with Isolated(_training_step, "bfloat16", True) as ours, Isolated(_training_step, "float32", False) as peer:
            yield Case("the same, ours with bfloat16 autocast", ours, peer, 0.55, "the peer in float32")


def networks(name: str = "resnet50") -> tuple[nn.Module, nn.Module]:
    """Build both with the same weights.

    Args:
        name: Backbone.

    Returns:
        Ours and the peer's, in evaluation mode.
    """
    torch.manual_seed(0)
    peer: nn.Module = smp.DeepLabV3Plus(name, encoder_weights=None, classes=CLASSES).eval()
    ours = create_model(
        "deeplab_v3_plus", num_classes=CLASSES, backbone=name, layout="smp", dilation_rule="uniform"
    ).eval()
    theirs = peer.get_submodule("decoder")
    aspp, expansion, norm = theirs.get_submodule("aspp.0"), *list(theirs.get_submodule("aspp").children())[1:3]
    parts = {
        "aspp.pointwise": aspp.get_submodule("convs.0"),
        "aspp.atrous": nn.Sequential(*list(aspp.get_submodule("convs").children())[1:4]),
        "aspp.pooling": aspp.get_submodule("convs.4"),
        "aspp.projection": aspp.get_submodule("project"),
        "expansion": nn.Sequential(expansion, norm),
        "decoder.reduction": theirs.get_submodule("block1"),
        "decoder.refinement": theirs.get_submodule("block2"),
        "classifier": peer.get_submodule("segmentation_head"),
    }
    ours.get_submodule("backbone.network").load_state_dict(peer.get_submodule("encoder").state_dict())
    for place, source in parts.items():
        for kind in (nn.Conv2d, nn.BatchNorm2d):
            mine, others = (
                [module for module in part.modules() if isinstance(module, kind)]
                for part in (ours.get_submodule(place), source)
            )
            for module, other in zip(mine, others, strict=True):
                module.load_state_dict(other.state_dict())
    weight = ours.get_submodule("aspp.projection.conv").weight
    with torch.no_grad():
        weight.copy_(torch.cat([weight[:, -256:], weight[:, :-256]], dim=1))  # ours has the pooled branch first
    return ours, peer


def _check(ours: nn.Module, peer: nn.Module) -> None:
    images = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(ours(images).logits, peer(images), rtol=1e-4, atol=1e-4)


def _inference(ours: bool) -> Callable[[], object]:
    model, peer = networks()
    images = torch.randn(INFERENCE_SHAPE, generator=torch.Generator().manual_seed(0))
    if ours:
        model = fold_batch_norms(model, images[..., :64, :64]).to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
        _check(model, peer)

    def step() -> Tensor:
        with torch.inference_mode():
            logits: Tensor = model(images).logits if ours else peer(images)
            return logits.argmax(dim=1)

    return step


def _training_step(precision: str, ours: bool) -> Callable[[], object]:
    if ours:
        keep_freed_memory()
    model, peer = networks()
    _check(model, peer)
    model = (model if ours else peer).train()
    images = torch.randn(TRAINING_SHAPE, generator=torch.Generator().manual_seed(0))
    size = (TRAINING_SHAPE[0], *TRAINING_SHAPE[2:])
    target = torch.randint(0, CLASSES, size, generator=torch.Generator().manual_seed(1))
    if ours:
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
        optimizer = create_optimizer(model, TrainConfig(learning_rate=1e-3))
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    criterion = CompositeLoss({"cross_entropy": 1.0}, num_classes=CLASSES, ignore_index=255)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            output = model(images)
            loss = criterion(output, target).total if ours else F.cross_entropy(output, target, ignore_index=255)
        loss.backward()
        optimizer.step()

    return step
