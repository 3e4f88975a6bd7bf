# SPDX-License-Identifier: Apache-2.0
"""The optimiser and its parameter groups: which part learns how fast, what decays, what is frozen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from denseg.errors import ConfigError, nearest_name

if TYPE_CHECKING:
    from denseg.config import TrainConfig

__all__ = [
    "create_optimizer",
    "freeze_parts",
    "load_optimizer_tensors",
    "optimizer_tensors",
    "set_learning_rate",
    "set_training_mode",
]

_KINDS = ("backbone", "head", "bias", "depthwise", "norm")
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def create_optimizer(
    model: nn.Module, config: TrainConfig, parts: Mapping[str, Iterable[str]] | None = None
) -> torch.optim.Optimizer:
    """Create SGD or AdamW over the parameters that learn.

    The learning rate of a parameter is ``train.learning_rate`` times the multipliers of all parts it belongs to, its
    weight decay likewise. Biases, normalisation weights and other vectors do not decay unless
    ``train.decay_norm_and_bias``. Parameters with the same numbers share a group.

    Args:
        model: The network, on its device; parameters with ``requires_grad=False`` stay out.
        config: The stage's ``train`` section.
        parts: Names of the parameters of ``backbone`` and ``head``, as ``denseg.models.split_parameters`` gives them.

    Returns:
        The optimiser. Each group holds ``names`` and ``base_lr`` besides torch's own keys.

    Raises:
        ConfigError: ``train.parts`` names something that no parameter belongs to, or nothing is left to learn.
    """
    members = _part_members(model, parts or {})
    multipliers = [(name, part, _members_of(name, members, "train.parts")) for name, part in config.parts.items()]
    no_decay = set() if config.decay_norm_and_bias else members["bias"] | members["norm"]
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        mine = [part for _, part, names in multipliers if name in names]
        rate = config.learning_rate * _product(part.learning_rate for part in mine)
        decay = config.weight_decay * _product(part.weight_decay for part in mine)
        if name in no_decay or (parameter.ndim <= 1 and not config.decay_norm_and_bias):
            decay = 0.0
        group = groups.setdefault(
            (rate, decay), {"params": [], "names": [], "lr": rate, "base_lr": rate, "weight_decay": decay}
        )
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise ConfigError("no parameter is left to learn: every part is frozen", key="train.parts")
    arguments = {"fused": True} if _can_fuse(model.parameters()) else {"foreach": True}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(list(groups.values()), lr=config.learning_rate, betas=config.betas, **arguments)
    return torch.optim.SGD(
        list(groups.values()),
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
        **arguments,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set every group's learning rate to its own base times a factor.

    Args:
        optimizer: What ``create_optimizer`` gave.
        factor: What ``learning_rate_factor`` gave.

    Returns:
        The largest learning rate, which is what the log shows.
    """
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return max(float(group["lr"]) for group in optimizer.param_groups)


def freeze_parts(
    model: nn.Module, config: TrainConfig, freeze: Sequence[str] = (), parts: Mapping[str, Iterable[str]] | None = None
) -> frozenset[str]:
    """Stop the gradients of parts that do not learn: those of ``freeze``, and parts with a learning rate of 0.

    Args:
        model: The network; what it was built with frozen (bilinear kernels) stays so.
        config: The stage's ``train`` section.
        freeze: Parts or prefixes of parameter names.
        parts: See ``create_optimizer``.

    Returns:
        Names of the parameters that are frozen now.
    """
    members = _part_members(model, parts or {})
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    for name in freeze:
        frozen |= _members_of(name, members, "stages.freeze")
    for name, part in config.parts.items():
        if part.learning_rate == 0:
            frozen |= _members_of(name, members, "train.parts")
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    return frozenset(frozen)


def set_training_mode(model: nn.Module, *, freeze_norm: bool, frozen: frozenset[str] = frozenset()) -> None:
    """Put a network into training mode; batch norm keeps its statistics where asked and in frozen parts.

    Args:
        model: The network.
        freeze_norm: Whether all batch norm keeps its stored statistics.
        frozen: Names of frozen parameters; a batch norm whose own parameters are all among them is frozen too.
    """
    model.train()
    if not freeze_norm and not frozen:
        return
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            own = {f"{name}.{parameter}" for parameter, _ in module.named_parameters(recurse=False)}
            if freeze_norm or (own and own <= frozen):
                module.eval()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Name the optimiser's tensors by the parameter they belong to.

    Args:
        optimizer: What ``create_optimizer`` gave.

    Returns:
        ``<parameter name>/<state name>`` to tensor; empty before the first step.
    """
    tensors = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"{name}/{key}"] = value
    return tensors


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what ``optimizer_tensors`` gave, on each parameter's device and in its memory format.

    Args:
        optimizer: A new optimiser over the same parameters.
        tensors: Every tensor by name.
    """
    by_name: dict[str, dict[str, Tensor]] = {}
    for full, tensor in tensors.items():
        name, _, key = full.rpartition("/")
        by_name.setdefault(name, {})[key] = tensor
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, tensor in by_name.get(name, {}).items():
                like = torch.empty_like(parameter) if tensor.shape == parameter.shape else None
                value = (
                    like.copy_(tensor)
                    if like is not None
                    else tensor.to(_scalar_device(parameter, optimizer), copy=True)
                )
                optimizer.state[parameter][key] = value


def _scalar_device(parameter: Tensor, optimizer: torch.optim.Optimizer) -> torch.device:
    fused = any(group.get("fused") for group in optimizer.param_groups)
    return parameter.device if fused else torch.device("cpu")


def _part_members(model: nn.Module, parts: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    members: dict[str, set[str]] = {name: set() for name in (*_KINDS, "")}
    for name, names in parts.items():
        members[name] = set(names)
    members[""] = {name for name, _ in model.named_parameters()}
    members["bias"] = {name for name in members[""] if name.rpartition(".")[2] == "bias"}
    for prefix, module in model.named_modules():
        if isinstance(module, _NORMS):
            members["norm"] |= {f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)}
        elif isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            members["depthwise"].add(f"{prefix}.weight")
    return members


def _members_of(part: str, members: Mapping[str, set[str]], key: str) -> set[str]:
    names = members.get(part) if part in _KINDS else None
    found = names or {name for name in members[""] if name == part or name.startswith(f"{part}.")}
    if found:
        return found
    known = sorted({kind for kind in _KINDS if members.get(kind)} | {name.partition(".")[0] for name in members[""]})
    near = nearest_name(part, known)
    hint = f" Did you mean {near!r}?" if near else ""
    raise ConfigError(f"{key}: this network has no part {part!r}.{hint} Known: {', '.join(known)}", key=key)


def _product(values: Iterable[float]) -> float:
    product = 1.0
    for value in values:
        product *= value
    return product


def _can_fuse(parameters: Iterable[Tensor]) -> bool:
    return all(parameter.is_floating_point() and parameter.device.type in {"cpu", "cuda"} for parameter in parameters)
