# SPDX-License-Identifier: Apache-2.0
"""The configuration of a run: frozen, strict, written into the run folder, and enough to replay it.

A recipe is a YAML document of the same shape with any part left out. ``load_config`` lays the defaults, the recipe and
the ``key=value`` settings of the command line over each other; a key that does not exist is an error that names the
nearest one. ``stages`` holds trainings that follow each other (front end, then context; output stride 16, then 8): each
is a partial ``train`` section laid over the common one.
"""

from __future__ import annotations

import copy
import importlib.resources
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from denseg.errors import ConfigError, UnknownNameError, nearest_name

__all__ = [
    "DataConfig",
    "ModelConfig",
    "PartConfig",
    "RunConfig",
    "StageConfig",
    "TrainConfig",
    "dump_config",
    "known_keys",
    "load_config",
    "parse_setting",
    "recipe_names",
    "stage_configs",
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(BaseModel):
    """Which network. Any further key is an option of that model's constructor and is checked against its signature."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field("unet", description="catalog name, see `denseg models`")
    backbone: str | None = Field(None, description="timm or torchvision name; the model's own default where empty")
    form: Literal["modern", "paper"] = Field("modern", description="`paper`: exact layers and sizes of the paper")
    width: float | None = Field(None, gt=0, description="multiplies the channels of models without a backbone")
    output_stride: Literal[4, 8, 16, 32] | None = Field(None, description="input pixels per heatmap position")
    pretrained: bool = Field(False, description="start the backbone from ImageNet weights")

    @property
    def options(self) -> dict[str, Any]:
        """Further keys: options of the model's constructor."""
        return dict(self.model_extra or {})


class DataConfig(_Section):
    """Which pictures, and how their masks are read."""

    path: str | None = Field(None, description="the data folder")
    val_share: float = Field(0.2, gt=0, lt=1, description="share of images held out where the folder has no split")
    unpaired: Literal["refuse", "skip"] = Field("refuse", description="images without mask, masks without image")
    ignore_index: int | None = Field(None, ge=0, description="label that means `no class`; found if empty")
    max_pixels: int = Field(178_956_970, gt=0, description="larger images are refused before they are decoded")
    accept: tuple[str, ...] = Field((), description="codes of `denseg check` findings that are known and accepted")


class PartConfig(_Section):
    """Multipliers of one part of the network."""

    learning_rate: float = Field(1.0, ge=0, description="times the learning rate; 0 freezes the part")
    weight_decay: float = Field(1.0, ge=0, description="times the weight decay")


class TrainConfig(_Section):
    """How the network is trained."""

    epochs: int | None = Field(None, ge=1, description="passes over the training split")
    iterations: int | None = Field(None, ge=1, description="optimiser steps; takes the place of epochs")
    batch_size: int = Field(8, ge=1, description="images per step and process")
    accumulate: int = Field(1, ge=1, description="batches summed into one optimiser step")
    crop: int | tuple[int, int] | None = Field(None, description="pixels or [height, width]; 512 or the image if empty")
    scale: tuple[float, float] = Field((0.5, 2.0), description="random resize, drawn between these")
    scales: tuple[float, ...] = Field((), description="random resize, drawn from this list instead")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a left-right flip")
    flip_vertical: float = Field(0.0, ge=0, le=1, description="probability of an up-down flip")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="what moves the weights")
    learning_rate: float = Field(0.01, gt=0, description="at the start, after warm-up")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    nesterov: bool = Field(False, description="of SGD")
    betas: tuple[float, float] = Field((0.9, 0.999), description="of AdamW")
    weight_decay: float = Field(1e-4, ge=0, description="of weights; see decay_norm_and_bias")
    decay_norm_and_bias: bool = Field(False, description="decay normalisation weights and biases too")
    parts: dict[str, PartConfig] = Field(
        default_factory=dict,
        description="multipliers by part: `backbone`, `head`, `bias`, `norm`, or a prefix of parameter names",
    )
    schedule: Literal["poly", "cosine", "step", "constant"] = Field("poly", description="how the learning rate falls")
    power: float = Field(0.9, gt=0, description="of the poly schedule")
    warmup: int = Field(0, ge=0, description="steps of linear warm-up")
    step_every: int | None = Field(None, ge=1, description="steps between drops of the step schedule")
    step_factor: float = Field(0.1, gt=0, le=1, description="each drop of the step schedule multiplies by this")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient")
    freeze_norm: bool = Field(False, description="batch norm keeps its stored statistics")
    loss: dict[str, float | dict[str, Any]] = Field({"cross_entropy": 1.0}, description="name: weight, or options too")
    loss_at: Literal["input", "heatmap"] = Field("input", description="where scores and labels meet")
    aux_weight: float = Field(0.4, ge=0, description="weight of the loss on auxiliary classifiers")
    precision: Annotated[Literal["32", "bf16", "16"], BeforeValidator(str)] = Field("32", description="16, bf16: mixed")
    channels_last: bool = Field(True, description="memory format; faster on current CPUs and GPUs")
    workers: int = Field(2, ge=0, description="loader processes; the result does not depend on it")
    metric: str = Field("miou", description="the score that decides the best checkpoint")
    patience: int | None = Field(None, ge=1, description="stop after so many epochs without a better score")
    checkpoint_every: int | None = Field(None, ge=1, description="save inside an epoch too, every so many steps")

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.epochs is not None and self.iterations is not None:
            raise ValueError("give train.epochs or train.iterations, not both")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"train.scale must be [low, high] with 0 < low <= high, got {list(self.scale)}")
        if any(scale <= 0 for scale in self.scales):
            raise ValueError(f"train.scales must be positive, got {list(self.scales)}")
        crop = (self.crop,) if isinstance(self.crop, int) else self.crop or ()
        if any(side < 1 for side in crop):
            raise ValueError(f"train.crop must be at least 1 pixel, got {self.crop}")
        if not self.loss:
            raise ValueError("train.loss names no loss")
        return self


class StageConfig(_Section):
    """One of several trainings that follow each other."""

    name: str = Field(description="shown in the log and in metrics.csv")
    train: dict[str, Any] = Field(default_factory=dict, description="keys of `train` that differ in this stage")
    freeze: tuple[str, ...] = Field((), description="parts that do not learn: `backbone`, `head`, or name prefixes")
    output_stride: Literal[4, 8, 16, 32] | None = Field(None, description="changed for this stage")


class RunConfig(_Section):
    """Everything that decides a run."""

    seed: int = Field(0, ge=0, lt=2**31, description="all randomness derives from (seed, epoch, sample)")
    recipe: str = Field("", description="name or file of the recipe that this came from; for the record")
    init: str = Field("none", description="none, imagenet, a run, or a checkpoint file")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    stages: tuple[StageConfig, ...] = Field((), description="trainings that follow each other; empty: `train` alone")

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        stage_configs(self)
        return self


def stage_configs(config: RunConfig) -> tuple[tuple[str, TrainConfig], ...]:
    """Resolve the stages of a run.

    Args:
        config: The run's configuration.

    Returns:
        Name and full training section of each stage, in order; one stage named ``train`` where none are given.

    Raises:
        ConfigError: A stage holds an unknown key or a value out of range.
    """
    if not config.stages:
        return (("train", config.train),)
    resolved = []
    for index, stage in enumerate(config.stages):
        base = config.train.model_dump()
        if {"epochs", "iterations"} & stage.train.keys():
            base |= {"epochs": None, "iterations": None}
        try:
            train = TrainConfig.model_validate(base | stage.train)
        except ValidationError as error:
            raise _config_error(error, prefix=("stages", str(index), "train")) from error
        resolved.append((stage.name, train))
    return tuple(resolved)


def load_config(
    recipe: str | Path | None = None, settings: Sequence[str] = (), *, base: Mapping[str, Any] | None = None
) -> RunConfig:
    """Lay defaults, ``base``, a recipe and ``key=value`` settings over each other, in this order.

    Args:
        recipe: Name of a recipe of denseg, or path of a YAML file; ``None`` for the defaults.
        settings: ``key=value`` with a dotted key and a YAML value, for example ``train.epochs=2``.
        base: Values under the recipe, nested as in the YAML file.

    Returns:
        The configuration.

    Raises:
        ConfigError: An unknown key, a value of the wrong type or range, or a file that is not YAML.
        UnknownNameError: There is no recipe of that name.
    """
    values: dict[str, Any] = copy.deepcopy(dict(base or {}))
    if recipe is not None:
        values = _merge(values, _read_recipe(recipe))
        values["recipe"] = str(recipe)
    for setting in settings:
        key, value = parse_setting(setting)
        _set(values, key, value)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise _config_error(error) from error


def dump_config(config: RunConfig) -> str:
    """Write a configuration as YAML that ``load_config`` reads back to an equal one.

    Args:
        config: The configuration.

    Returns:
        YAML text, keys in the order of the schema.
    """
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def parse_setting(setting: str) -> tuple[str, Any]:
    """Split ``train.crop=[256, 256]`` into its dotted key and its YAML value.

    Args:
        setting: The text from the command line.

    Returns:
        The key and the value.

    Raises:
        ConfigError: There is no ``=``, or the value is not YAML.
    """
    key, separator, text = setting.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set takes key=value, for example train.epochs=20; got {setting!r}", key=key)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value of {key.strip()} is not readable: {text!r}", key=key) from error
    if isinstance(value, str):
        value = _number(value)
    return key.strip(), value


def recipe_names() -> tuple[str, ...]:
    """List the recipes that come with denseg.

    Returns:
        Their names, sorted.
    """
    folder = importlib.resources.files("denseg") / "recipes"
    if not folder.is_dir():
        return ()
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def known_keys() -> tuple[str, ...]:
    """List every dotted key that ``--set`` takes, model options aside.

    Returns:
        The keys, in the order of the schema.
    """
    keys: list[str] = []
    for name in RunConfig.model_fields:
        section = _SECTIONS.get(name)
        keys += [f"{name}.{key}" for key in section.model_fields] if section is not None else [name]
    return tuple(keys)


def _read_recipe(recipe: str | Path) -> dict[str, Any]:
    path = Path(recipe)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise ConfigError(f"no recipe file {path}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the recipe {path}: {error}") from error
    else:
        if str(recipe) not in recipe_names():
            raise UnknownNameError("recipe", str(recipe), recipe_names())
        text = (importlib.resources.files("denseg") / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the recipe {recipe} is not YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"the recipe {recipe} must hold keys and values, got a {type(values).__name__}")
    return {str(key): value for key, value in values.items()}


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay nested mappings over each other; ``loss`` and ``parts`` are replaced whole, a recipe says all of them."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, Mapping) and key not in {"loss", "parts"}:
            merged[key] = _merge(old, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    section = values
    *path, last = key.split(".")
    for index, name in enumerate(path):
        inner = section.setdefault(name, {})
        if not isinstance(inner, dict):
            at = ".".join(path[: index + 1])
            raise ConfigError(f"{at} holds a value, not further keys; got {key}", key=key)
        section = inner
    section[last] = value
    if path == ["train"] and last in {"epochs", "iterations"} and value is not None:
        section["iterations" if last == "epochs" else "epochs"] = None  # the last one said counts


def _number(text: str) -> float | str:
    """YAML 1.1 reads 1e-3 as text; a person means a number."""
    try:
        return float(text) if any(digit.isdigit() for digit in text) else text
    except ValueError:
        return text


_SECTIONS: dict[str, type[BaseModel]] = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig}

# What other programs call it.
_SYNONYMS = {
    "batch": "batch_size",
    "bs": "batch_size",
    "encoder": "backbone",
    "lr": "learning_rate",
    "wd": "weight_decay",
}


def _config_error(error: ValidationError, prefix: Sequence[str] = ()) -> ConfigError:
    """Say the first fault in one line: the key, what was expected, what came, the nearest key."""
    errors = [(_key_of(prefix, fault["loc"]), fault) for fault in error.errors(include_url=False)]
    key, first = next((entry for entry in errors if entry[1]["type"] == "extra_forbidden"), errors[0])
    if first["type"] == "extra_forbidden":
        return _unknown_key(key)
    if first["type"] == "value_error":
        original = first["ctx"]["error"]
        return original if isinstance(original, ConfigError) else ConfigError(str(original), key=key)
    messages = [fault["msg"] for other, fault in errors if f"{other}.".startswith(f"{key}.")]  # one per form of a union
    wanted = ", or ".join(dict.fromkeys(message[0].lower() + message[1:] for message in messages))
    return ConfigError(
        f"{key}: {re.sub(r' or instance of [A-Z][A-Za-z]+', '', wanted)}, got {first['input']!r}", key=key
    )


def _key_of(prefix: Sequence[str], location: Sequence[str | int]) -> str:
    """Join a location to a dotted key; pydantic's names for the forms of a value (`int`) are no part of it."""
    parts = [*prefix, *(str(part) for part in location)]
    return ".".join(part for part in parts if part not in {"int", "float"} and "[" not in part)


def _unknown_key(key: str) -> ConfigError:
    """Name the nearest key: of the same section first, then of any."""
    *path, name = key.split(".")
    section = _section_of(path)
    siblings = tuple(section.model_fields) if section is not None else ()
    wanted = _SYNONYMS.get(name, name)
    near = wanted if wanted in siblings else nearest_name(name, siblings)
    if near is not None:
        near = ".".join([*path, near])
    else:
        near = next((known for known in known_keys() if known.rpartition(".")[2] == wanted), None)
        near = near or nearest_name(key, known_keys())
    hint = f"Did you mean {near}?" if near else f"Known here: {', '.join(sorted(siblings))}."
    return ConfigError(f"no setting named {key}. {hint}", key=key)


def _section_of(path: Sequence[str]) -> type[BaseModel] | None:
    """Find the schema that the keys below a dotted path belong to."""
    if path[:1] == ["stages"]:
        path = path[2:]
        if not path:
            return StageConfig
    if list(path[:2]) == ["train", "parts"]:
        return PartConfig
    return _SECTIONS.get(path[0]) if path else RunConfig
