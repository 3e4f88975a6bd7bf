# SPDX-License-Identifier: Apache-2.0
"""How long one image takes and how much memory it needs."""

from __future__ import annotations

import statistics
import time
from typing import Any, NamedTuple

import torch
from torch import nn

from denseg.inference.canvas import fit_size
from denseg.inference.memory import bytes_per_pixel
from denseg.inference.tiled import model_parts

__all__ = ["Speed", "measure_speed"]

LEAST_SECONDS = 1.0
"""Timed rounds go on until this much time has passed, within ``ROUNDS``."""
ROUNDS = (5, 50)
MEMORY_SIDE = 128
"""Pixels of the square on which memory is measured; it grows with the area."""


class Speed(NamedTuple):
    """What one image costs on this machine.

    Attributes:
        seconds: Median time from normalised image to labels.
        low: First quartile.
        high: Third quartile.
        rounds: How often it was timed.
        memory: Bytes that the largest moment takes, weights and image included.
        device: Where.
        threads: Processor threads that torch used.
        size: Height and width in pixels.
    """

    seconds: float
    low: float
    high: float
    rounds: int
    memory: int
    device: str
    threads: int
    size: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return self._asdict() | {"size": list(self.size)}


@torch.inference_mode()
def measure_speed(model: nn.Module, size: tuple[int, int]) -> Speed:
    """Time a model on one image of random numbers.

    Args:
        model: A network of ``create_model`` in evaluation mode, on its device.
        size: Height and width in pixels; the next size that the model takes is used.

    Returns:
        The times and the memory.
    """
    parts = model_parts(model)
    height, width = (fit_size(side, parts["geometry"]) for side in size)
    weight = next(model.parameters(), torch.empty(0))
    images = torch.randn((1, parts["in_channels"], height, width), generator=torch.Generator().manual_seed(0))
    images = images.to(weight.device, memory_format=torch.channels_last)
    on_gpu = weight.device.type == "cuda"

    def label() -> float:
        began = time.perf_counter()
        model(images).logits.max(dim=1)
        if on_gpu:
            torch.cuda.synchronize(weight.device)
        return time.perf_counter() - began

    label()  # what the first image alone pays: choosing kernels, growing the heap
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(weight.device)
    times: list[float] = []
    while len(times) < ROUNDS[0] or (sum(times) < LEAST_SECONDS and len(times) < ROUNDS[1]):
        times.append(label())
    low, middle, high = statistics.quantiles(times, n=4)
    if on_gpu:
        memory = torch.cuda.max_memory_allocated(weight.device)
    else:
        side = fit_size(max(MEMORY_SIDE, 2 * parts["geometry"].total_stride), parts["geometry"])
        per_pixel = bytes_per_pixel(model, in_channels=parts["in_channels"], side=side)
        weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
        memory = int(per_pixel * height * width) + weights
    return Speed(middle, low, high, len(times), memory, weight.device.type, torch.get_num_threads(), (height, width))
