# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a configuration, in one line: the key, what was expected, what came, the nearest key."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import BaseModel, ValidationError

from denseg.errors import ConfigError, nearest_name

__all__ = ["config_error", "keys_of", "subsection"]

# What other programs call it.
_SYNONYMS = {
    "amp": "precision",
    "batch": "batch_size",
    "bs": "batch_size",
    "encoder": "backbone",
    "lr": "learning_rate",
    "wd": "weight_decay",
}


def config_error(error: ValidationError, schema: type[BaseModel], prefix: Sequence[str] = ()) -> ConfigError:
    """Say the first fault.

    Args:
        error: What pydantic found.
        schema: Of the whole configuration; the nearest key is looked for in it.
        prefix: Keys above the part that was validated.

    Returns:
        The error to raise.
    """
    errors = [(_key_of(prefix, fault["loc"]), fault) for fault in error.errors(include_url=False)]
    key, first = next((entry for entry in errors if entry[1]["type"] == "extra_forbidden"), errors[0])
    if first["type"] == "extra_forbidden":
        return _unknown_key(key, schema)
    if first["type"] == "value_error":
        original = first["ctx"]["error"]
        return original if isinstance(original, ConfigError) else ConfigError(str(original), key=key)
    messages = [fault["msg"] for other, fault in errors if f"{other}.".startswith(f"{key}.")]  # one per form of a union
    wanted = ", or ".join(dict.fromkeys(message[0].lower() + message[1:] for message in messages))
    return ConfigError(
        f"{key}: {re.sub(r' or instance of [A-Z][A-Za-z]+', '', wanted)}, got {first['input']!r}", key=key
    )


def keys_of(schema: type[BaseModel], prefix: str = "") -> tuple[str, ...]:
    """List the dotted keys of a schema, sections inside sections too.

    Args:
        schema: A section, or the whole.
        prefix: Put before every key.

    Returns:
        The keys, in the order of the schema.
    """
    keys: list[str] = []
    for name in schema.model_fields:
        inner = subsection(schema, name)
        keys += [f"{prefix}{name}"] if inner is None else keys_of(inner, f"{prefix}{name}.")
    return tuple(keys)


def subsection(schema: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Tell whether a key holds a section.

    Args:
        schema: The section above.
        name: The key.

    Returns:
        The section's schema; ``None`` where the key holds a value, or is none.
    """
    field = schema.model_fields.get(name)
    kind = None if field is None else field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _key_of(prefix: Sequence[str], location: Sequence[str | int]) -> str:
    """Join a location to a dotted key; pydantic's names for the forms of a value (`int`) are no part of it."""
    parts = [*prefix, *(str(part) for part in location)]
    return ".".join(part for part in parts if part not in {"int", "float"} and "[" not in part)


def _unknown_key(key: str, schema: type[BaseModel]) -> ConfigError:
    """Name the nearest key: of the same section first, then of any."""
    *path, name = key.split(".")
    section = _section_of(path, schema)
    siblings = tuple(section.model_fields) if section is not None else ()
    wanted = _SYNONYMS.get(name, name)
    known = keys_of(schema)
    same = next((other for other in known if other.rpartition(".")[2] == wanted), None)
    if wanted in siblings:
        near: str | None = ".".join([*path, wanted])
    elif same is not None:
        near = same
    else:
        sibling = nearest_name(name, siblings)
        near = ".".join([*path, sibling]) if sibling else nearest_name(key, known)
    hint = f"Did you mean {near}?" if near else f"Known here: {', '.join(sorted(siblings))}."
    return ConfigError(f"no setting named {key}. {hint}", key=key)


def _section_of(path: Sequence[str], schema: type[BaseModel]) -> type[BaseModel] | None:
    """Find the schema that the keys below a dotted path belong to."""
    section: type[BaseModel] | None = schema
    names = list(path)
    while names and section is not None:
        name = names.pop(0)
        inner = subsection(section, name)
        if inner is None and section is not schema and name == "train":  # a stage's part of `train`
            inner = subsection(schema, "train")
        elif inner is None and names:  # a list or a mapping of sections: the next part is a number or a name
            names.pop(0)
            inner = _item_section(section, name)
        section = inner
    return section


def _item_section(schema: type[BaseModel], name: str) -> type[BaseModel] | None:
    field = schema.model_fields.get(name)
    kinds = getattr(None if field is None else field.annotation, "__args__", ())
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
