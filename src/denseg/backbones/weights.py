# SPDX-License-Identifier: Apache-2.0
"""ImageNet weights of timm's networks, and one clear error where they cannot be had."""

from __future__ import annotations

import socket
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import huggingface_hub
import timm
from huggingface_hub import constants

from denseg.errors import CheckpointError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

__all__ = ["create_with_weights", "weight_names"]

_FILES = ("model.safetensors", "pytorch_model.bin")
_REMEDY = (
    "Connect to the internet for the first use, or point HF_HOME at a folder that holds them, or start without them "
    "(--init none, pretrained=False)."
)


def create_with_weights(create: Callable[..., nn.Module], name: str) -> nn.Module:
    """Build a timm network with its ImageNet weights.

    Args:
        create: Builds the network; takes ``pretrained``.
        name: timm's name, with or without a weight tag.

    Returns:
        The network.

    Raises:
        UnsupportedError: The network has no weights at all.
        CheckpointError: The weights can be neither found in the cache nor downloaded.
    """
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise UnsupportedError(f"there are no ImageNet weights of backbone {name!r}; start without (--init none)")
    if config.hf_hub_id and not _is_cached(config.hf_hub_id):
        _check_reachable(name)
    try:
        return create(pretrained=True)
    except Exception as error:  # whatever the hub client raises: it changes by version
        raise CheckpointError(
            f"cannot load the ImageNet weights of backbone {name!r}: {_first_line(error)}. {_REMEDY}"
        ) from error


def weight_names(architecture: str) -> tuple[str, ...]:
    """List the names of an architecture's weights.

    Args:
        architecture: timm's name without a tag.

    Returns:
        ``architecture.tag`` for each tag that timm knows.
    """
    known = timm.list_models(f"{architecture}.*", pretrained=True)
    return tuple(name for name in known if name.partition(".")[0] == architecture)


def _is_cached(repository: str) -> bool:
    return any(isinstance(huggingface_hub.try_to_load_from_cache(repository, file), str) for file in _FILES)


def _check_reachable(name: str) -> None:
    """Fail at once where the hub cannot be reached: its client would try again for most of a minute."""
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(
            f"cannot load the ImageNet weights of backbone {name!r}: HF_HUB_OFFLINE is set. {_REMEDY}"
        )
    if urllib.request.getproxies():
        return
    url = urllib.parse.urlsplit(constants.ENDPOINT)
    host, port = url.hostname or "huggingface.co", url.port or (80 if url.scheme == "http" else 443)
    try:
        socket.create_connection((host, port), timeout=10).close()
    except OSError as error:
        reason = _first_line(error)
        raise CheckpointError(
            f"cannot download the ImageNet weights of backbone {name!r}: {host} cannot be reached ({reason}). {_REMEDY}"
        ) from error


def _first_line(error: Any) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
