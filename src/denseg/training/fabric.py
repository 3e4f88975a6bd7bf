# SPDX-License-Identifier: Apache-2.0
"""Device, processes and precision of a training, by Lightning Fabric."""

from __future__ import annotations

import logging
import os
import time
from datetime import timedelta

import torch
from lightning_fabric import Fabric
from torch._C._distributed_c10d import PrefixStore, TCPStore

from denseg.errors import ConfigError
from denseg.inference.device import choose_device

__all__ = ["choose_precision", "create_fabric", "device_kind", "share_text"]

PLANNING_TIME = timedelta(minutes=30)
"""How long other processes wait for the first one to read the data and decide."""


def device_kind(device: str) -> str:
    """Name the kind of device that a training runs on.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Returns:
        ``cpu``, ``cuda`` or ``mps``.
    """
    kind = device.partition(":")[0]
    return choose_device().type if kind == "auto" else kind


def choose_precision(device: str) -> str:
    """Choose between float32 and mixed bfloat16: what the device multiplies faster.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Returns:
        ``bf16`` on GPUs that have it (Ampere and later) and on CPUs with AVX512-BF16 or AMX; else ``32``.
    """
    kind = device_kind(device)
    if kind == "cuda":
        return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "32"
    if kind == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "32"
    return "32"


def create_fabric(device: str, precision: str) -> Fabric:
    """Choose device, processes and precision; under ``torchrun`` each process takes its share.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``32``, ``bf16``, ``16`` or ``auto``.

    Returns:
        The launched fabric.

    Raises:
        UsageError: There is no such device here.
        ConfigError: The device cannot train in this precision.
    """
    chosen = choose_device(device)
    kind = chosen.type
    if precision == "16" and kind == "cpu":
        raise ConfigError("train.precision 16 needs a GPU; on a CPU use bf16 or 32", key="train.precision")
    if precision == "auto":
        precision = choose_precision(device)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    devices: int | list[int] = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if chosen.index is not None:
        devices = [chosen.index]
    names = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
    log = logging.getLogger("lightning_fabric")
    level = log.level
    log.setLevel(logging.WARNING)  # what it says besides is said in our own words
    try:
        fabric = Fabric(
            accelerator=kind,
            devices=devices,
            num_nodes=max(1, world // (devices if isinstance(devices, int) else 1)),
            strategy="ddp" if world > 1 else "auto",
            precision=names[precision],  # type: ignore[arg-type]
        )
        fabric.launch()
    finally:
        log.setLevel(level)
    return fabric


def share_text(text: str | None) -> str:
    """Give all processes that ``torchrun`` started what the first one has, before they are connected.

    Args:
        text: On the first process, what to share; ``None`` on the others.

    Returns:
        The text, on every process.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if world == 1:
        return text or ""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # the launcher keeps the store
    store = TCPStore(host, port, is_master=rank == 0 and not hosted, timeout=PLANNING_TIME)
    shared = PrefixStore("denseg", store)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if text is not None:
        shared.set(f"text/{attempt}", text)
    value = shared.get(f"text/{attempt}").decode()
    if shared.add(f"taken/{attempt}", 1) < world and not hosted and rank == 0:
        while shared.add(f"taken/{attempt}", 0) < world:
            time.sleep(0.05)  # the store lives in this process
    return value
