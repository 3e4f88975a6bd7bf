# SPDX-License-Identifier: Apache-2.0
"""denseg and segmentation_models_pytorch on the same two networks: a training step, and inference.

segmentation_models_pytorch runs as its users run it: contiguous (NCHW) memory, eager, float32; and, where the processor
has bfloat16, channels_last under autocast too. denseg runs its own defaults (channels_last) through its own loss.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import Case
from denseg.losses import CompositeLoss
from denseg.models import create_model

__all__ = ["PEER", "inference_cases", "training_cases"]

PEER = f"segmentation_models_pytorch {smp.__version__}"
CLASSES = 21
FLOAT32_GOAL = 0.95
BFLOAT16_GOAL = 1.0

NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "U-Net / ResNet-34": (
        lambda: create_model("unet", num_classes=CLASSES, backbone="resnet34"),
        lambda: smp.Unet("resnet34", encoder_weights=None, classes=CLASSES),
    ),
    "DeepLabV3+ / ResNet-50": (
        lambda: create_model("deeplab_v3_plus", num_classes=CLASSES, backbone="resnet50", output_stride=16),
        lambda: smp.DeepLabV3Plus("resnet50", encoder_weights=None, classes=CLASSES),
    ),
}


def training_cases(*, batch: int = 2, size: int = 256) -> list[Case]:
    """Build the cases of one training step: forward, loss, backward, SGD.

    Args:
        batch: Images per step.
        size: Their height and width.

    Returns:
        The cases.
    """
    images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, CLASSES, (batch, size, size), generator=torch.Generator().manual_seed(1))
    cases = []
    for name, (ours, peer) in NETWORKS.items():
        note = _parameters(ours(), peer())
        for precision in _precisions():
            fast = precision == "bfloat16"
            cases.append(
                Case(
                    f"{name}, {precision}",
                    _training_step(ours(), images, target, fast=fast, channels_last=True, ours=True),
                    _training_step(peer(), images, target, fast=fast, channels_last=fast, ours=False),
                    BFLOAT16_GOAL if fast else FLOAT32_GOAL,
                    note,
                )
            )
    return cases


def inference_cases(*, batch: int = 1, size: int = 512) -> list[Case]:
    """Build the cases of one inference: image in, class scores at its size out.

    Args:
        batch: Images per step.
        size: Their height and width.

    Returns:
        The cases.
    """
    images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    cases = []
    for name, (ours, peer) in NETWORKS.items():
        note = _parameters(ours(), peer())
        for precision in _precisions():
            fast = precision == "bfloat16"
            cases.append(
                Case(
                    f"{name}, {precision}",
                    _inference(ours(), images, fast=fast, channels_last=True, ours=True),
                    _inference(peer(), images, fast=fast, channels_last=fast, ours=False),
                    BFLOAT16_GOAL if fast else FLOAT32_GOAL,
                    note,
                )
            )
    return cases


def _precisions() -> list[str]:
    """float32 everywhere; bfloat16 where the processor multiplies it."""
    fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return ["float32", "bfloat16"] if fast else ["float32"]


def _training_step(
    model: nn.Module, images: Tensor, target: Tensor, *, fast: bool, channels_last: bool, ours: bool
) -> Callable[[], None]:
    model.train()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    criterion = CompositeLoss({"cross_entropy": 1.0}, num_classes=CLASSES, ignore_index=255)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with _autocast(fast):
            output = model(images)
            loss = criterion(output, target).total if ours else F.cross_entropy(output, target, ignore_index=255)
        loss.backward()
        optimizer.step()

    return step


def _inference(
    model: nn.Module, images: Tensor, *, fast: bool, channels_last: bool, ours: bool
) -> Callable[[], Tensor]:
    model.eval()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)

    def step() -> Tensor:
        with torch.inference_mode(), _autocast(fast):
            output = model(images)
            logits: Tensor = output.logits if ours else output
            return logits.argmax(dim=1)

    return step


def _autocast(fast: bool) -> contextlib.AbstractContextManager[object]:
    return torch.autocast("cpu", dtype=torch.bfloat16) if fast else contextlib.nullcontext()


def _parameters(ours: nn.Module, peer: nn.Module) -> str:
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (ours, peer)]
    return f"{counts[0]:,} parameters, the peer's {counts[1]:,}"
