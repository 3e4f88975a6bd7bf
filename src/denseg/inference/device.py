# SPDX-License-Identifier: Apache-2.0
"""From the name of a device, as a user gives it, to one that is there."""

from __future__ import annotations

import torch

from denseg.errors import UsageError

__all__ = ["choose_device"]


def choose_device(name: str = "auto") -> torch.device:
    """Find a device.

    Args:
        name: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Returns:
        The device.

    Raises:
        UsageError: The name is unknown, or there is no such device here.
    """
    kind, _, number = name.partition(":")
    if kind == "auto" and not number:
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind)
    if kind not in {"cpu", "cuda", "mps"} or (":" in name and (kind != "cuda" or not number.isdecimal())):
        raise UsageError(f"device is auto, cpu, cuda, cuda:N or mps; got {name!r}")
    if (kind == "cuda" and not torch.cuda.is_available()) or (kind == "mps" and not torch.backends.mps.is_available()):
        raise UsageError(f"this machine has no {kind} device that torch can use; use --device cpu")
    if number and int(number) >= torch.cuda.device_count():
        raise UsageError(f"there is no {name}: torch sees {torch.cuda.device_count()} cuda devices here")
    return torch.device(name)
