# SPDX-License-Identifier: Apache-2.0
"""denseg and segmentation_models_pytorch on the same two networks: a training step, and inference.

segmentation_models_pytorch runs as its users run it: contiguous (NCHW) memory, eager, float32, torch's optimiser as it
comes; and, where the processor has bfloat16, channels_last under autocast too. denseg runs what its commands run:
channels_last, its own loss and optimiser, the memory setting of ``denseg train``, batch norms folded for inference.
Each side has a process of its own.
"""

from __future__ import annotations

import contextlib
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

__all__ = ["PEER", "inference_cases", "training_cases"]

PEER = f"segmentation_models_pytorch {smp.__version__}"
CLASSES = 21
NETWORKS = ("U-Net / ResNet-34", "DeepLabV3+ / ResNet-50")
GOALS = {"float32": 0.95, "bfloat16": 1.0}

TRAINING_SHAPE = (2, 3, 256, 256)
INFERENCE_SHAPE = (1, 3, 512, 512)


def training_cases() -> Iterator[Case]:
    """Give the cases of one training step: forward, loss, backward, SGD.

    Yields:
        The cases; a case's processes live until the next one is asked for.
    """
    yield from _cases(_training_step)


def inference_cases() -> Iterator[Case]:
    """Give the cases of one inference: image in, labels of its size out.

    Yields:
        The cases; a case's processes live until the next one is asked for.
    """
    yield from _cases(_inference)


def _cases(make: Callable[[str, str, bool], Callable[[], object]]) -> Iterator[Case]:
    fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    for network in NETWORKS:
        counts = [sum(parameter.numel() for parameter in _build(network, ours).parameters()) for ours in (True, False)]
        note = f"{counts[0]:,} parameters, the peer's {counts[1]:,}"
        for precision in GOALS if fast else ["float32"]:
            with Isolated(make, network, precision, True) as ours, Isolated(make, network, precision, False) as peer:
                yield Case(f"{network}, {precision}", ours, peer, GOALS[precision], note)


def _build(network: str, ours: bool) -> nn.Module:
    if network == "U-Net / ResNet-34":
        if ours:
            return create_model("unet", num_classes=CLASSES, backbone="resnet34")
        unet: nn.Module = smp.Unet("resnet34", encoder_weights=None, classes=CLASSES)
        return unet
    if ours:
        return create_model("deeplab_v3_plus", num_classes=CLASSES, backbone="resnet50", output_stride=16)
    deeplab: nn.Module = smp.DeepLabV3Plus("resnet50", encoder_weights=None, classes=CLASSES)
    return deeplab


def _training_step(network: str, precision: str, ours: bool) -> Callable[[], object]:
    if ours:
        keep_freed_memory()
    model = _build(network, ours).train()
    images = torch.randn(TRAINING_SHAPE, generator=torch.Generator().manual_seed(0))
    size = (TRAINING_SHAPE[0], *TRAINING_SHAPE[2:])
    target = torch.randint(0, CLASSES, size, generator=torch.Generator().manual_seed(1))
    if ours or precision == "bfloat16":
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    if ours:
        optimizer = create_optimizer(model, TrainConfig(learning_rate=1e-3))
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    criterion = CompositeLoss({"cross_entropy": 1.0}, num_classes=CLASSES, ignore_index=255)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with _autocast(precision):
            output = model(images)
            loss = criterion(output, target).total if ours else F.cross_entropy(output, target, ignore_index=255)
        loss.backward()
        optimizer.step()

    return step


def _inference(network: str, precision: str, ours: bool) -> Callable[[], object]:
    model = _build(network, ours).eval()
    images = torch.randn(INFERENCE_SHAPE, generator=torch.Generator().manual_seed(0))
    if ours:
        model = fold_batch_norms(model, images[..., :64, :64])
    if ours or precision == "bfloat16":
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)

    def step() -> Tensor:
        with torch.inference_mode(), _autocast(precision):
            output = model(images)
            logits: Tensor = output.logits if ours else output
            return logits.argmax(dim=1)

    return step


def _autocast(precision: str) -> contextlib.AbstractContextManager[object]:
    return torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()
