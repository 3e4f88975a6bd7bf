# SPDX-License-Identifier: Apache-2.0
"""Named tensors and a JSON document in one safetensors file that proves its own bytes.

Plain safetensors loads a file with a flipped bit as if nothing were wrong. Here the header holds a SHA-256 over names,
dtypes, shapes and bytes of all tensors and over the document; it is checked at every read. Files are written whole or
not at all, straight from the tensors' memory, and nothing unpickles.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from denseg.errors import CheckpointError, UsageError
from denseg.files import write_atomic

__all__ = ["read_any_tensors", "read_tensors", "write_tensors"]

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write named tensors and a JSON document as one safetensors file with a SHA-256 over all of it.

    Args:
        path: Where; the folder must exist.
        tensors: By name, on any device; a view or a shared tensor is written in full.
        metadata: JSON values; NaN and infinity are refused.

    Raises:
        UsageError: A tensor's dtype cannot be stored, or the metadata is not JSON.
        OutputError: The file cannot be written; what stood there before still stands.
    """
    path = Path(path)
    try:
        document = json.dumps(metadata, ensure_ascii=False, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise UsageError(f"checkpoint metadata must be JSON values: {error}") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise UsageError(
                f"cannot store {name}: its dtype {tensor.dtype} has no place in a checkpoint; convert it first"
            )
    # Wider types first, as safetensors itself orders them, so that every tensor starts aligned to its own size.
    ordered = {
        name: tensors[name].detach() for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    }
    entries: dict[str, Any] = {
        "__metadata__": {"format": "pt", "denseg": document, "sha256": _digest(ordered, document)}
    }
    offset = 0
    for name, tensor in ordered.items():
        size = tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)

    def write(file: IO[bytes]) -> None:
        file.write(struct.pack("<Q", len(header)))
        file.write(header)
        for tensor in ordered.values():
            file.write(_bytes(tensor))

    write_atomic(path, write)


def read_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``write_tensors`` wrote, and prove that every byte is as it was written.

    Args:
        path: The file.

    Returns:
        The tensors by name, on the CPU, and the metadata.

    Raises:
        CheckpointError: The file is missing, cannot be read, or is damaged.
    """
    return _read(Path(path), verify=True)


def read_any_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read any safetensors file; one that denseg wrote is proved as in ``read_tensors``.

    Args:
        path: The file.

    Returns:
        The tensors by name, on the CPU, and the metadata, empty for a file of another program.

    Raises:
        CheckpointError: The file is missing, cannot be read, or is damaged.
    """
    return _read(Path(path), verify=False)


def _read(path: Path, *, verify: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file; one without our digest (another program's) is taken only where ``verify`` is off."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if start[8:] != b"{" and (start.startswith(b"PK\x03\x04") or start[:1] == b"\x80"):
            raise CheckpointError(
                f"{path} is a pickle (.pth, .pt), which denseg never opens; "
                "save its state dict with safetensors.torch.save_file and give that file",
                path=path,
            )
        with safe_open(path, framework="pt", device="cpu") as opened:
            header: dict[str, str] = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
    except OSError as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        raise CheckpointError(f"cannot read the checkpoint {path}: {reason}", path=path) from error
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged or not a safetensors file: {error}; use another checkpoint", path=path
        ) from error
    # Read in place until proved: a copy would repair, not show, a byte of a bool that is neither 0 nor 1.
    if not verify and not header.keys() & {"denseg", "sha256"}:
        return {name: tensor.clone() for name, tensor in tensors.items()}, {}
    if header.keys() != {"format", "denseg", "sha256"} or header["format"] != "pt":
        raise CheckpointError(f"{path} is damaged or was not written by denseg: its header has no checksum", path=path)
    if _digest(tensors, header["denseg"]) != header["sha256"]:
        raise CheckpointError(
            f"{path} is damaged: its content does not match its checksum; use another checkpoint", path=path
        )
    metadata: dict[str, Any] = json.loads(header["denseg"])
    return {name: tensor.clone() for name, tensor in tensors.items()}, metadata


def _digest(tensors: Mapping[str, Tensor], document: str) -> str:
    digest = hashlib.sha256(document.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}\0{_DTYPES.get(tensor.dtype, tensor.dtype)}\0{list(tensor.shape)}\0".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().data
