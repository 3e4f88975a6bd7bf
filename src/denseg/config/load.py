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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from denseg.config.messages import config_error, keys_of
from denseg.config.sections import RunConfig
from denseg.errors import ConfigError, UnknownNameError

__all__ = ["dump_config", "known_keys", "load_config", "parse_setting", "recipe_names"]


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
        raise config_error(error, RunConfig) from error


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
    return keys_of(RunConfig)


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
    if path == ["train"] and last in _LENGTHS and value is not None:
        section.update(dict.fromkeys(_LENGTHS - {last}))  # the last one said counts


_LENGTHS = {"epochs", "iterations", "budget"}


def _number(text: str) -> float | str:
    """YAML 1.1 reads 1e-3 as text; a person means a number."""
    try:
        return float(text) if any(digit.isdigit() for digit in text) else text
    except ValueError:
        return text
